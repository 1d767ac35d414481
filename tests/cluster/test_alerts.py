"""deploy/prometheus and deploy/grafana as files: configuration, rules, layout. `test_monitoring.py` runs them.

Debian's `prometheus` (promtool with it) does the checking. CI installs it; at a desk its tests are skipped without it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.compose.services import ROOT

PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(GRAFANA.glob("*.json"))}
METRIC = re.compile(r"\b(?:sortline|flower|process)_\w+")
RULES = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
QUERIES = {
    f"{name}: {panel['title']}, {target['refId']}": target["expr"]
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel["targets"]
}


def program(name: str) -> str:
    """Return the path of a program of Debian's package, or skip the test; CI must have it."""
    if (found := shutil.which(name)) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {name}: apt-get install prometheus")
    return found


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_alert_is_tried_on_a_fleet_that_needs_it_and_on_a_healthy_one() -> None:
    tests = Path(__file__).parent / "rules_test.yml"
    plan = yaml.safe_load(tests.read_text(encoding="utf-8"))["tests"]
    alerts = {rule["alert"] for rule in RULES}

    silent = {case["alertname"] for case in plan[0]["alert_rule_test"]}
    firing = {
        name
        for part in plan[1:]
        for case in part["promql_expr_test"]
        for sample in case["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert silent == firing == alerts
    assert all(rule["annotations"].keys() == {"summary", "do"} and rule["labels"]["severity"] for rule in RULES)
    assert "SUCCESS" in promtool("test", "rules", tests)


@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
def test_prometheus_takes_the_configuration(name: str, tmp_path: Path) -> None:
    plan = yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))
    for job in plan["scrape_configs"]:
        # Debian's build has no discovery of pods: all but this block is checked.
        if (pods := job.pop("kubernetes_sd_configs", None)) is not None:
            assert pods == [{"role": "pod", "namespaces": {"names": ["sortline"]}}]
            job["static_configs"] = [{"targets": ["localhost:9808"]}]
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(yaml.safe_dump(plan))

    assert "SUCCESS" in promtool("check", "config", tmp_path / name)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_has_what_grafana_needs_of_it(name: str) -> None:
    dashboard = DASHBOARDS[name]
    panels = dashboard["panels"]

    assert dashboard["uid"] == f"sortline-{name}"
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    squares: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not own & squares, f"{panel['title']} lies on another panel"
        squares |= own
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = {word for panel in panels for target in panel["targets"] for word in re.findall(r"\$(\w+)", target["expr"])}
    assert used <= variables | {"__rate_interval"}
