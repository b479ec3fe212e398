"""Alerts and dashboard ask for what the service exposes, and Prometheus's own checker accepts them.

It is asked where `promtool` is installed.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.problems import KINDS
from serving.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each query of the alerts and of the dashboard under a name."""
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


def dashboard() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/captioner.json").read_text())
    return value


def series() -> dict[str, set[str]]:
    """Return the names of all series that the service exposes, each with those of its labels."""
    metrics = Metrics()
    for value in vars(metrics).values():
        if names := getattr(value, "_labelnames", ()):
            value.labels(*names)
    families = text_string_to_metric_families(metrics.text().decode())
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize(("name", "query"), [*expressions()], ids=lambda text: text[:30])
def test_queries_name_only_what_the_service_exposes(name: str, query: str) -> None:
    known = series()
    bare = re.sub(r'"[^"]*"', '""', query)
    used = re.findall(r"\b((?:caption|http)_\w+|up)\b(?:\{([^}]*)\})?", bare)
    assert used, name
    labels = {"le"} if "_bucket" in bare else set()
    for metric, matchers in used:
        assert metric in known, f"{name}: there is no {metric}"
        named = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert named <= known[metric] | {"job"}, f"{name}: {metric} has no such label"
        labels |= known[metric]
    for group in re.findall(r"by \(([^)]*)\)", bare):
        assert {label.strip() for label in group.split(",")} <= labels, name
    for codes in re.findall(r'code(?:=~|!~|=)"([^"]*)"', query):
        assert set(codes.split("|")) <= set(KINDS), name


def test_the_dashboard_shows_what_matters_and_is_laid_out() -> None:
    panels = dashboard()["panels"]
    queries = " ".join(query for _, query in expressions())
    for name in series():
        if name.startswith(("caption_", "http_")) and not name.endswith(("_sum", "_count")):
            assert name in queries, f"{name} is shown nowhere"
    cells = [
        (column, row)
        for at in (panel["gridPos"] for panel in panels)
        for column in range(at["x"], at["x"] + at["w"])
        for row in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) == 23
    assert len({panel["id"] for panel in panels}) == len(panels)
    provisioned = DEPLOY / "grafana/provisioning/datasources/prometheus.yml"
    sources = yaml.safe_load(provisioned.read_text())
    uids = {source["uid"] for source in sources["datasources"]}
    assert {panel["datasource"]["uid"] for panel in panels} <= uids
    for panel in panels:
        assert panel["title"], panel["id"]
        assert panel["description"], panel["id"]


def test_every_alert_says_what_happened_and_is_explained() -> None:
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"].endswith("."), rule["alert"]
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            assert f"`{rule['alert']}`" in PAGE, rule["alert"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", str(DEPLOY / "prometheus/prometheus.yml")),
        ("test", "rules", str(DEPLOY / "prometheus/alerts_test.yml")),
    ],
    ids=["syntax", "behaviour"],
)
def test_prometheus_accepts_the_rules(words: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
