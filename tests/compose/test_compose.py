"""docker-compose.yml, as far as it can be proven without a container engine."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.canaries import MARK, secret
from tests.compose.services import ROOT, MissingVariable, Services, dockerfile, read_compose
from tests.conftest import wait_until, write_images
from tests.e2e.test_train import LEARNS, QUICK, write_shades
from tests.unit.test_docs import parse

SECRETS = {"REDIS_PASSWORD": secret("redis"), "FLOWER_PASSWORD": secret("flower")}
GIVEN = {**SECRETS, "PHOTOS": "/mnt/photos", "REPORTS": "./reports"}
COMPOSE = read_compose(GIVEN)
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = sorted(name for name in SERVICES if name != "redis")
SECONDS = {"s": 1, "m": 60}


def test_the_file_is_valid_by_the_schema_of_the_compose_specification() -> None:
    schema = json.loads((Path(__file__).parent / "compose_spec.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema)

    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    assert list(validator.iter_errors({**COMPOSE, "services": {"worker": {"comand": []}}}))  # the schema does look


def test_all_services_that_the_docs_speak_of_are_there() -> None:
    assert set(SERVICES) == {"redis", "worker", "worker-gpu", "trainer", "flower", "producer"}
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    assert SERVICES["producer"]["profiles"] == ["once"]
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "container_name" not in SERVICES["worker"]  # --scale worker=4 needs names of its own
    assert "ports" not in SERVICES["worker"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_can_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] not in ("root", "0", "0:0")
    assert service["restart"] == ("no" if name == "producer" else "unless-stopped")
    assert float(service["cpus"]) <= 2  # Docker refuses to start a container of more cores than the host has
    assert service["pids_limit"] <= 512
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert name == "producer" or service["healthcheck"]["test"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", OURS)
def test_images_are_read_only_and_the_store_is_written_by_the_trainer_alone(name: str) -> None:
    mounts = {volume.split(":")[1]: volume.split(":")[2:] for volume in SERVICES[name]["volumes"]}

    assert mounts.get("/photos", ["ro"]) == ["ro"]
    assert mounts.get("/models", ["ro"]) == ([] if name == "trainer" else ["ro"])
    assert SERVICES[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}


@pytest.mark.parametrize("name", ["worker", "worker-gpu", "trainer"])
def test_a_worker_may_finish_its_chunk_before_it_is_killed(name: str) -> None:
    number, unit = re.fullmatch(r"(\d+)([sm])", SERVICES[name]["stop_grace_period"]).groups()  # type: ignore[union-attr]

    assert int(number) * SECONDS[unit] >= 120


def test_redis_keeps_what_it_is_given_and_evicts_nothing() -> None:
    command = " ".join(SERVICES["redis"]["command"])

    for flags in ("--appendonly yes", "--appendfsync everysec", "--maxmemory-policy noeviction", "--aclfile"):
        assert flags in command
    assert "ports" not in SERVICES["redis"]


def test_no_password_stands_on_a_command_line_or_in_an_image() -> None:
    words = [word for service in SERVICES.values() for word in (*service["command"], *service.get("entrypoint", []))]
    checks = [word for service in SERVICES.values() for word in service.get("healthcheck", {}).get("test", [])]

    assert not any(MARK in word for word in (*words, *checks))
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".env", "*.env", "**/*.pem", "**/*.key", ".git"} <= set(ignored)
    assert ignored.index("docs/**") < ignored.index("!docs/guide/troubleshooting.md")  # which the wheel holds


@pytest.mark.parametrize("name", ["REDIS_PASSWORD", "FLOWER_PASSWORD", "PHOTOS"])
def test_a_value_that_must_be_given_is_asked_for_and_stands_in_the_example(name: str) -> None:
    example = (ROOT / "configs" / "compose.env.example").read_text()

    with pytest.raises(MissingVariable, match=f"{name}: .*\\.env"):
        read_compose({key: value for key, value in GIVEN.items() if key != name})
    assert re.search(rf"^{name}=$", example, re.MULTILINE)


def test_a_host_with_more_cores_gives_more_to_each_container() -> None:
    example = (ROOT / "configs" / "compose.env.example").read_text()
    services = read_compose({**GIVEN, "LABEL_CPUS": "8", "TRAIN_CPUS": "16", "GPU_CPUS": "32"})["services"]

    assert [services[name]["cpus"] for name in ("worker", "trainer", "worker-gpu")] == ["8", "16", "32"]
    assert re.findall(r"^(\w+_CPUS)=(\d+)$", example, re.MULTILINE) == [
        ("LABEL_CPUS", "2"), ("TRAIN_CPUS", "2"), ("GPU_CPUS", "2"),
    ]  # fmt: skip


def test_images_are_pinned_and_only_the_trainers_has_mindspore() -> None:
    stages = dockerfile()

    assert re.fullmatch(r"python:3\.1[0-2]\.\d+-slim-\w+", stages["base"][0][1])
    assert re.fullmatch(r"redis:\d+\.\d+\.\d+-\w+", SERVICES["redis"]["image"])
    targets = {name: SERVICES[name]["build"]["target"] for name in OURS}
    assert targets == {
        "worker": "label", "producer": "label", "worker-gpu": "gpu", "trainer": "train", "flower": "monitor",
    }  # fmt: skip
    extras = {
        "label": "heif,raw,remote",
        "train": "train,heif,raw,weights",
        "gpu": "gpu,heif,raw,remote",
        "monitor": "monitor",
    }
    for target, extra in extras.items():
        install = [rest for word, rest in stages[f"build-{target}"] if word == "RUN"][-1]
        assert install == f'/opt/sortline/bin/pip install --constraint constraints.txt ".[{extra}]"'
        assert ("COPY", f"--from=build-{target} /opt/sortline /opt/sortline") in stages[target]
        assert ("USER", "sortline") in stages[target]


def test_the_commands_that_the_page_gives_to_a_service_parse() -> None:
    page = (ROOT / "docs" / "guide" / "deploy.md").read_text(encoding="utf-8")
    given = re.findall(r"^docker compose run --rm (?:-v \S+ )?(\S+) (.*)$", page, re.MULTILINE)

    assert len(given) > 3
    for service, arguments in given:
        assert service in ("producer", "trainer")
        parse(shlex.split(arguments, comments=True))


@pytest.mark.long
@pytest.mark.timeout(420)
def test_the_services_of_the_file_train_and_label_as_processes(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_shades(photos / "shades")
    write_images(photos / "inbox", 20)
    compose = read_compose({**GIVEN, "PHOTOS": str(photos), "REPORTS": str(tmp_path / "reports")})
    services = Services(compose, tmp_path)
    with ExitStack() as stack:
        stack.enter_context(services.start("redis"))
        wait_until(lambda: services.is_healthy("redis"), 30, "redis")
        assert not services.is_healthy("worker")  # the check sees that there is none yet
        with services.start("worker-gpu"):  # without a GPU it starts, but would refuse a chunk
            wait_until(lambda: services.is_healthy("worker-gpu"), 60, "worker-gpu")
        for name in ("worker", "trainer", "flower"):
            stack.enter_context(services.start(name))
        for name in ("worker", "trainer", "flower"):
            wait_until(lambda name=name: services.is_healthy(name), 90, name)  # type: ignore[misc]

        trained = services.run("producer", "train", "/photos/shades", *QUICK, *LEARNS, "--name", "shades")
        labelled = services.run("producer", "label", "/photos/inbox", "-o", "/reports/report.csv", "--model", "shades")
        doctor = services.run("producer", "doctor")
        metrics = metrics_of(services)

    assert (trained.returncode, trained.stdout) == (0, "shades:1\n"), trained.stderr
    assert labelled.returncode == 0, labelled.stderr
    with (services.folder_of("producer", "/reports") / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["ok"] * 20
    assert {row["model"] for row in rows} == {"shades:1"}
    assert "ok   label workers: label@" in doctor.stdout
    assert "ok   train workers: train@" in doctor.stdout
    assert "ok   persistence: appendonly" in doctor.stdout
    assert 'sortline_images_total{model="shades:1",status="ok"} 20.0' in metrics
    assert (tmp_path / "volumes" / "redis" / "appendonlydir").is_dir()
    logs = [services.log(name).read_text(errors="replace") for name in ("redis", "worker", "trainer", "flower")]
    assert not any(MARK in text for text in [*logs, trained.stderr, labelled.stderr, doctor.stdout, doctor.stderr])
    versions = services.folder_of("trainer", "/models") / "shades" / "versions"
    assert versions.stat().st_mode & 0o007 == 0  # nothing for strangers


def metrics_of(services: Services) -> str:
    event = next(line for line in services.log("worker").read_text().splitlines() if '"metrics served"' in line)
    with urllib.request.urlopen(json.loads(event)["url"], timeout=10) as answer:  # noqa: S310 - our own http server
        return str(answer.read().decode())


@pytest.mark.long
def test_the_install_steps_of_the_label_image_work_in_a_clean_environment_and_bring_no_mindspore(
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "src", tmp_path / "sortline"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.split("\0"):
        is_kept = not name.startswith((".", "benchmarks/", "docs/", "examples/", "tests/"))  # as .dockerignore says
        if name and (is_kept or name == "docs/guide/troubleshooting.md"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    for word, rest in dockerfile()["build-label"]:
        if word == "RUN":
            step = rest.replace("/opt/sortline", str(target)).replace("python -m", f"{sys.executable} -m")
            done = subprocess.run(["sh", "-ec", step], cwd=source, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{step}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"

    help_text = subprocess.run(
        [target / "bin" / "sortline", "--help"], capture_output=True, text=True, check=True
    ).stdout
    listed = subprocess.run(
        [target / "bin" / "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    ).stdout
    packages = {entry["name"].lower(): entry["version"] for entry in json.loads(listed)}
    assert "label" in help_text
    assert {"openvino", "celery", "prometheus_client"} <= {name.replace("-", "_") for name in packages}
    assert not {"mindspore", "onnxruntime", "flower", "pytest"} & packages.keys()
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert f"celery=={packages['celery']} " in lock
