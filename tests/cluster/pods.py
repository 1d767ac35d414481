"""Pods of deploy/kubernetes as services, which `tests/compose/services.py` runs as processes of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.cluster.kustomize import Manifest, containers_of, pod_of

OURS = re.compile(r"(?:.*/)?sortline-(label|train|gpu|monitor)(?::[\w.]+)?")


def read_secret(text: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return what `kubectl create secret --from-env-file` makes of secret.env.example with ``given`` filled in."""
    pairs = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert given.keys() <= pairs.keys(), given.keys() - pairs.keys()
    return {**pairs, **given}


def as_compose(objects: Iterable[Manifest], secret: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Return the pods' only containers as services of a compose file, by the names of their objects.

    Config maps are written below ``folder``. What refers to a config map, secret key or volume that is not there is a
    KeyError, where a cluster would leave the pod waiting.
    """
    objects = list(objects)
    maps = {found["metadata"]["name"]: found["data"] for found in objects if found["kind"] == "ConfigMap"}
    services = {}
    for found in objects:
        name = found["metadata"]["name"]
        for container in containers_of(found):
            environment = _environment(container, maps, secret, name)
            words = [
                _expanded(word, environment) for word in (*container.get("command", []), *container.get("args", []))
            ]
            services[name] = {
                **_image(container["image"]), "command": words, "environment": environment,
                **_volumes(found, container, maps, folder), **_folder(container),
                "healthcheck": {"test": _probe(container)},
            }  # fmt: skip
    return {"services": services}


def _image(image: str) -> dict[str, Any]:
    match = OURS.fullmatch(image)
    return {"build": {"target": match.group(1)}} if match else {"image": image}


def _folder(container: Manifest) -> dict[str, str]:
    return {"working_dir": container["workingDir"]} if "workingDir" in container else {}


def _environment(
    container: Manifest, maps: Mapping[str, dict[str, str]], secret: Mapping[str, str], job: str
) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if not source.get("secretRef", {}).get("optional"):
            found |= maps[source["configMapRef"]["name"]]
    for entry in container.get("env", []):
        if "value" in entry:
            found[entry["name"]] = entry["value"]
        elif "secretKeyRef" in entry["valueFrom"]:
            assert entry["valueFrom"]["secretKeyRef"]["name"] == "sortline"
            found[entry["name"]] = secret[entry["valueFrom"]["secretKeyRef"]["key"]]
        else:
            assert entry["valueFrom"]["fieldRef"] == {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}
            found[entry["name"]] = job
    return found


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """Fill in $(NAME), which Kubernetes leaves as it is where there is no such variable."""
    return re.sub(r"\$\((\w+)\)", lambda match: environment.get(match.group(1), match.group(0)), text)


def _volumes(
    manifest: Manifest, container: Manifest, maps: Mapping[str, dict[str, str]], folder: Path
) -> dict[str, list[str]]:
    claims = {found["metadata"]["name"]: found for found in manifest["spec"].get("volumeClaimTemplates", [])}
    volumes = {volume["name"]: volume for volume in pod_of(manifest)["spec"].get("volumes", [])} | claims
    mounts, scratch = [], []
    for mount in container.get("volumeMounts", []):
        volume, target = volumes[mount["name"]], mount["mountPath"]
        if "emptyDir" in volume:
            scratch.append(target)
        elif "configMap" in volume:
            files = folder / "configs" / volume["configMap"]["name"]
            files.mkdir(parents=True, exist_ok=True)
            for name, text in maps[files.name].items():
                (files / name).write_text(text)
            mounts.append(f"{files}:{target}:ro")
        else:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", mount["name"])
            mounts.append(f"{claim}:{target}{':ro' if mount.get('readOnly') else ''}")
    return {"volumes": mounts, "tmpfs": scratch}


def _probe(container: Manifest) -> list[str]:
    probe = container.get("readinessProbe", {})
    if "exec" in probe:
        return ["CMD", *probe["exec"]["command"]]
    if "httpGet" in probe:
        get = probe["httpGet"]
        code = (
            f'import urllib.request; urllib.request.urlopen("http://127.0.0.1:{get["port"]}{get["path"]}", timeout=5)'
        )
        return ["CMD", "python", "-c", code]
    return ["CMD", "true"]
