"""deploy/kubernetes, as far as it can be proven without a cluster: schemas, and rules for pods."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest

from configs.settings import Settings
from jobs.broker import Keys
from jobs.label import LabelChunk
from tests.cluster.kustomize import Manifest, build, containers_of, identity, pod_of
from tests.cluster.pods import as_compose, read_secret
from tests.compose.services import ROOT, dockerfile
from tests.unit.test_docs import parse

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.37")  # the oldest that we name, and the newest whose schemas the package holds
KEDA = json.loads((Path(__file__).parent / "keda.json").read_text(encoding="utf-8"))
EXAMPLE = (FOLDER / "secret.env.example").read_text(encoding="utf-8")
WHOLE = {
    "cpu": "resources: [CPU]",
    "gpu": "resources: [GPU]",
    "runs": "resources: [RUNS]",
    "bucket and share": "resources: [CPU]\ncomponents: [COMPONENTS/nfs, COMPONENTS/s3]",
    "redis elsewhere": "resources: [BASE]\ncomponents: [COMPONENTS/external-redis]",
}
PLACES = {"CPU": "overlays/cpu", "GPU": "overlays/gpu", "RUNS": "runs", "BASE": "base", "COMPONENTS": "components"}


@pytest.fixture(params=WHOLE)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a kustomization: each of ours, and others that the docs name."""
    text = WHOLE[request.param]
    for word, place in PLACES.items():
        text = re.sub(rf"\b{word}\b", os.path.relpath(FOLDER / place, tmp_path.resolve()), text)
    header = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    (tmp_path / "kustomization.yaml").write_text(f"{header}{text}\n")
    return tmp_path


@pytest.fixture
def objects(folder: Path) -> list[Manifest]:
    return build(folder)


def test_objects_are_valid_by_the_schemas_of_kubernetes_and_keda(objects: list[Manifest]) -> None:
    validator = jsonschema.Draft202012Validator(KEDA)
    for found in objects:
        if found["apiVersion"].startswith("keda.sh/"):
            assert [error.message for error in validator.iter_errors(found)] == []
        else:
            for version in VERSIONS:
                kubernetes_validate.validate(found, version, strict=True)
    assert len({identity(found) for found in objects}) == len(objects)


def test_the_schemas_do_look() -> None:
    objects = {identity(found): found for found in build(FOLDER / "overlays" / "cpu")}
    worker, scaled = objects["Deployment", "label-worker"], objects["ScaledObject", "label-worker"]
    worker["spec"]["template"]["spec"]["containers"][0]["arguments"] = []
    scaled["spec"]["triggers"][0]["metadata"]["listLength"] = 2

    with pytest.raises(kubernetes_validate.ValidationError, match="arguments"):
        kubernetes_validate.validate(worker, VERSIONS[0], strict=True)
    assert not jsonschema.Draft202012Validator(KEDA).is_valid(scaled)


def test_a_pod_can_do_no_more_than_it_must(objects: list[Manifest]) -> None:
    for found in objects:
        spec = pod_of(found).get("spec", {})
        for container in containers_of(found):
            assert spec["automountServiceAccountToken"] is False
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["runAsUser"] >= 999
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert container["securityContext"] == {
                "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
            assert not {"hostPath", "hostNetwork", "hostPID"} & {*spec, *(key for v in spec["volumes"] for key in v)}
            for mount in container["volumeMounts"]:
                is_input = mount["name"] == "photos" or (mount["name"] == "models" and container["name"] != "trainer")
                assert mount.get("readOnly", False) is (is_input or mount["name"] == "users")


def test_what_a_pod_refers_to_is_there(objects: list[Manifest]) -> None:
    known = {identity(found) for found in [*objects, *build(FOLDER / "overlays" / "cpu")]}
    keys = read_secret(EXAMPLE, {})

    for found in objects:
        text = json.dumps(found)
        for claim in re.findall(r'"claimName": "([^"]+)"', text):
            assert ("PersistentVolumeClaim", claim) in known
        for name in re.findall(r'"configMapRef": {"name": "([^"]+)"', text):
            assert ("ConfigMap", name) in known
        for key in re.findall(r'"secretKeyRef": {"name": "sortline", "key": "([^"]+)"', text):
            assert key in keys
        if '"FLOWER_BASIC_AUTH"' in text:  # a Service of this name would come in as options of Flower
            assert pod_of(found)["spec"]["enableServiceLinks"] is False
        if found["kind"] in ("Service", "PodDisruptionBudget"):
            selector = found["spec"]["selector"]
            selector = selector.get("matchLabels", selector)
            labels = [pod_of(other).get("metadata", {}).get("labels", {}) for other in objects]
            assert any(label.items() >= selector.items() for label in labels)
        if found["kind"] == "TriggerAuthentication":
            assert {entry["key"] for entry in found["spec"]["secretTargetRef"]} <= keys.keys()


@pytest.mark.parametrize("place", ["overlays/cpu", "overlays/gpu", "runs"])
def test_an_image_has_a_registry_and_a_version(place: str) -> None:
    for found in build(FOLDER / place):
        for container in containers_of(found):
            assert re.fullmatch(r"registry\.example\.org/sortline-\w+:0\.1\.0|redis:7\.[\w.-]+", container["image"])


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_keda_counts_the_keys_that_our_queue_has_and_nobody_is_killed_in_mid_chunk(overlay: str) -> None:
    objects = {identity(found): found for found in build(FOLDER / "overlays" / overlay)}
    worker, scaled = objects["Deployment", "label-worker"]["spec"], objects["ScaledObject", "label-worker"]["spec"]
    keys, defaults = Keys(Settings().key_prefix), Settings()

    counted = {trigger["metadata"]["listName"] for trigger in scaled["triggers"]}
    assert counted == {*keys.queues(LabelChunk.queue), keys.unacked}
    assert len({trigger["metadata"]["listLength"] for trigger in scaled["triggers"][:-1]}) == 1
    window = int(objects["ConfigMap", "sortline"]["data"]["SORTLINE_WINDOW_CHUNKS"])
    listed = int(scaled["triggers"][0]["metadata"]["listLength"])
    assert window >= (listed + 1) * scaled["maxReplicaCount"]  # one run, with a chunk at hand in each worker, uses all
    assert scaled["minReplicaCount"] == 0
    assert scaled["cooldownPeriod"] > defaults.visibility_timeout_s
    assert "replicas" not in worker  # each apply would undo what KEDA chose
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= defaults.stuck_s + pause_s + 20
    assert "livenessProbe" not in container
    if overlay == "gpu":
        processes = next(entry["value"] for entry in container["env"] if entry["name"] == "SORTLINE_PROCESSES")
        ports = [port["containerPort"] for port in container["ports"]]
        assert ports == [9808 + index for index in range(int(processes))]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert container["image"].endswith("/sortline-gpu:0.1.0")


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_policies_let_pods_to_redis_and_prometheus_to_their_ports(overlay: str) -> None:
    objects = [*build(FOLDER / "overlays" / overlay), *build(FOLDER / "runs")]
    policies = {found["metadata"]["name"]: found["spec"] for found in objects if found["kind"] == "NetworkPolicy"}
    (metrics,) = policies["allow-metrics"]["ingress"]

    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies["allow-redis"]["podSelector"] == {"matchLabels": {"broker-client": "true"}}
    for found in objects:
        labels = pod_of(found).get("metadata", {}).get("labels", {})
        for container in containers_of(found):
            needs_redis = "SORTLINE_BROKER" in {entry["name"] for entry in container["env"]}
            assert ("broker-client" in labels) is needs_redis
            ports = [port for port in container.get("ports", []) if port["name"].startswith("metrics")]
            assert ("metrics" in labels) is bool(ports)
            for port in ports:
                ranges = [(own["port"], own.get("endPort", own["port"])) for own in metrics["ports"]]
                assert any(first <= port["containerPort"] <= last for first, last in ranges)


def test_the_users_of_redis_are_those_of_the_configuration_and_one_that_counts() -> None:
    objects = {identity(found): found for found in build(FOLDER / "overlays" / "cpu")}

    users = objects["ConfigMap", "redis-users"]["data"]["users.acl"]
    assert users.startswith((ROOT / "configs" / "redis-users.acl").read_text(encoding="utf-8"))
    assert users.splitlines()[-1].startswith("user keda on ")


def test_images_are_those_of_the_dockerfile_and_commands_parse(objects: list[Manifest], tmp_path: Path) -> None:
    shared = [found for found in build(FOLDER / "base") if identity(found) == ("ConfigMap", "sortline")]
    for name, service in as_compose([*shared, *objects], read_secret(EXAMPLE, {}), tmp_path)["services"].items():
        if "build" in service:
            assert service["build"]["target"] in dockerfile(), name
            parse(service["command"])
        else:
            assert re.fullmatch(r"redis:\d+\.\d+\.\d+-\w+", service["image"])
