"""Every panel of deploy/grafana and every metric of deploy/prometheus, scraped from running workers by Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.test_alerts import METRIC, PROMETHEUS, QUERIES, RULES, program
from tests.conftest import SORTLINE, RedisServer, end, environment, free_port, sortline, wait_until, write_images


class Prometheus:
    """Debian's server, with our scrape configuration but for the addresses and the time between two scrapes."""

    def __init__(self, folder: Path, targets: dict[str, list[str]]) -> None:
        plan = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
        plan["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"}
        plan["scrape_configs"] = [
            {"job_name": job["job_name"], "static_configs": [{"targets": targets[job["job_name"]]}]}
            for job in plan["scrape_configs"]
        ]
        shutil.copy(PROMETHEUS / "rules.yml", folder)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(plan))
        self._folder, self._port = folder, free_port()

    @contextmanager
    def running(self) -> Iterator[None]:
        options = {
            "config.file": self._folder / "prometheus.yml", "storage.tsdb.path": self._folder / "data",
            "web.listen-address": f"127.0.0.1:{self._port}",
        }  # fmt: skip
        command = [program("prometheus"), *(f"--{name}={value}" for name, value in options.items())]
        with (self._folder / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            end(process, 30)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression now; an expression that Prometheus refuses is an error."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except OSError:  # not there yet
            return []
        return found


def as_asked_by_grafana(expression: str) -> str:
    """Fill in Grafana's variables; no machine of the tests has a GPU to show."""
    filled = expression.replace("$__rate_interval", "30s").replace("$instance", ".*")
    return filled.replace('device=~"nvidia.*"', 'device="cpu"')


@pytest.mark.long
def test_every_panel_shows_something_and_every_metric_of_the_rules_is_there(
    redis_server: RedisServer, home: Path, tmp_path: Path, model_store: Path
) -> None:
    program("prometheus")
    photos = tmp_path / "photos"
    write_images(photos / "a", 20)[3].write_text("no picture")
    write_images(photos / "b", 20)
    env = {
        "SORTLINE_BROKER": redis_server.url,
        "SORTLINE_STORE": str(model_store),
        "SORTLINE_DATA_ROOT": str(photos),
        "SORTLINE_CHUNK_IMAGES": "5",
    }
    ports = {"label": free_port(), "train": free_port(), "flower": free_port()}
    commands = {
        "label": ["worker", "--queues", "label"],
        "train": ["worker", "--queues", "train"],
        "flower": ["monitor", "--port", str(ports["flower"])],
    }
    (tmp_path / "prometheus").mkdir()
    server = Prometheus(
        tmp_path / "prometheus",
        {
            "sortline": [f"127.0.0.1:{ports[name]}" for name in ("label", "train")],
            "sortline-flower": [f"127.0.0.1:{ports['flower']}"],
        },
    )

    def missing() -> list[str]:
        return [name for name, expression in QUERIES.items() if not server.query(as_asked_by_grafana(expression))]

    with ExitStack() as stack:
        stack.enter_context(server.running())

        def start(name: str) -> None:
            more = {**env, "SORTLINE_METRICS_PORT": str(ports[name])}
            stack.enter_context(running(commands[name], environment(home, more), home / f"{name}.log"))

        start("label")
        start("flower")
        wait_until(lambda: server.query("flower_worker_online == 1"), 60, "Flower to hear of the worker")
        # A training that was cancelled before a worker took it ends in seconds, with the events of every other.
        job = sortline("train", str(photos), "--config", "digits", "--detach", home=home, env=env).stdout.strip()
        sortline("jobs", "cancel", job, home=home, env=env)
        start("train")
        for round_ in range(2):  # a rate needs two
            sortline("label", str(photos), "-o", f"{round_}.csv", home=home, env=env)
        try:
            wait_until(lambda: not missing(), 30)
        finally:
            print("panels without data:", missing())
        names = {sample["metric"]["__name__"] for sample in server.query('{job=~"sortline.*"}')}
        selectors = [selector for rule in RULES for selector in re.findall(r"flower_\w+\{[^}]*\}", rule["expr"])]
        unseen = [selector for selector in selectors if not server.query(selector.replace("failed", "succeeded"))]
        alerts = server.query("ALERTS")

    used = {name for text in (*QUERIES.values(), *(rule["expr"] for rule in RULES)) for name in METRIC.findall(text)}
    assert used <= names
    assert unseen == []  # Flower's events have the names of our tasks
    # The seeded model, which was never trained, gives most images the same label.
    expected = {"SortlineImagesFail", "SortlineLabelMix", "SortlineModelsTakeTurns"}
    assert {alert["metric"]["alertname"] for alert in alerts} <= expected


@contextmanager
def running(command: list[str], env: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen([SORTLINE, *command], env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        try:
            end(process, 60)
        finally:
            print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
