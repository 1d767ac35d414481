"""What `kubectl kustomize` makes of our folders: as much of it as they use. A field that is not known here is an error.

`test_kubernetes.py` holds this to kubectl itself where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# Of a list of records: which field says that two are the same. Lists of other kinds are replaced as a whole.
MERGE_KEYS = {
    "containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath", "ports": "containerPort",
}  # fmt: skip
FIELDS = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "images"}
CLUSTER_WIDE = {"Namespace", "PersistentVolume"}
Manifest = dict[str, Any]


def build(folder: Path) -> list[Manifest]:
    """Return the objects of a folder with a `kustomization.yaml`."""
    objects: list[Manifest] = []
    _add(folder, objects)
    return objects


def _add(folder: Path, objects: list[Manifest]) -> None:
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert plan.keys() <= FIELDS, f"{folder}: {plan.keys() - FIELDS}"
    for name in plan.get("resources", []):
        if (folder / name).is_dir():
            objects += build(folder / name)
        else:
            objects += documents(folder / name)
    for name in plan.get("components", []):
        _add(folder / name, objects)
    for entry in plan.get("patches", []):
        assert entry.keys() == {"path"}
        for patch in documents(folder / entry["path"]):
            (target,) = (found for found in objects if identity(found) == identity(patch))
            _merge(target, patch)
    images = {entry["name"]: f"{entry['newName']}:{entry['newTag']}" for entry in plan.get("images", [])}
    for found in objects:
        for container in containers_of(found):
            container["image"] = images.get(container["image"], container["image"])
        if "namespace" in plan and found["kind"] not in CLUSTER_WIDE:
            found["metadata"]["namespace"] = plan["namespace"]


def documents(path: Path) -> list[Manifest]:
    return [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found]


def identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def pod_of(manifest: Manifest) -> Manifest:
    """Return the pod template of an object, or nothing."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: Manifest = spec.get("template", {}) if manifest["kind"] != "PersistentVolume" else {}
    return found


def containers_of(manifest: Manifest) -> Iterator[Manifest]:
    yield from pod_of(manifest).get("spec", {}).get("containers", [])


def _merge(target: Manifest, patch: Manifest) -> None:
    for name, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        elif isinstance(value, list) and name in target and MERGE_KEYS.get(name):
            target[name] = _merge_list(target[name], value, MERGE_KEYS[name])
        else:
            target[name] = value


def _merge_list(target: list[Manifest], patch: list[Manifest], key: str) -> list[Manifest]:
    rest = {entry[key]: entry for entry in target}
    first = []
    for entry in patch:
        known = rest.pop(entry[key], {})
        if entry.pop("$patch", "") != "delete":
            _merge(known, entry)
            first.append(known)
    return [*first, *rest.values()]
