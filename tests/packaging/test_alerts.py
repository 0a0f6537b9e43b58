"""The alert rules in `deploy/`: each names metrics that exist, and leads to a runbook."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.core.events import RELAY_EVENTS
from relay.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "alerts.yml"
PRODUCTION = ROOT / "docs" / "production.md"
PROMTOOL = shutil.which("promtool")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    assert set(group) == {"name", "rules"}
    found: list[dict[str, Any]] = group["rules"]
    return found


RULES_BY_NAME = {rule["alert"]: rule for rule in rules()}


def series() -> dict[str, set[str]]:
    """The names under which metrics are scraped, each with its labels."""
    found: dict[str, set[str]] = {}
    for metric in Metrics().__dict__.values():
        kind, name = getattr(metric, "_type", None), getattr(metric, "_name", None)
        for suffix in SUFFIXES.get(kind, ()) if name else ():
            found[f"{name}{suffix}"] = {*metric._labelnames, *(("le",) if suffix == "_bucket" else ())}
    return found


@pytest.mark.parametrize("name", RULES_BY_NAME)
def test_every_metric_and_label_exists(name: str) -> None:
    known = series()
    expression = RULES_BY_NAME[name]["expr"]
    used = re.findall(r"\b(relay_\w+)(?:\{([^}]*)\})?", expression)
    assert used or expression == 'up{job="relay"} == 0'
    for metric, selector in used:
        assert metric in known, f"{name}: there is no {metric}"
        assert set(re.findall(r"(\w+)=", selector)) <= known[metric], f"{name}: {metric}{{{selector}}}"
        kept = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(",")}
        assert kept <= known[metric], f"{name}: {metric} has no {kept - known[metric]}"
    for event in re.findall(r'type="([^"]+)"', expression):
        assert event in RELAY_EVENTS


@pytest.mark.parametrize("name", RULES_BY_NAME)
def test_every_alert_says_what_it_means_and_leads_to_its_runbook(name: str) -> None:
    rule = RULES_BY_NAME[name]
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"] == f"docs/production.md#{name.lower()}"
    runbook = re.search(rf"^### {name}\n\n(.+)$", PRODUCTION.read_text(encoding="utf-8"), re.MULTILINE)
    assert runbook is not None, f"docs/production.md has no runbook of {name}"
    assert len(runbook[1]) > 80


def test_every_runbook_has_its_alert() -> None:
    assert set(re.findall(r"^### (Relay\w+)$", PRODUCTION.read_text(encoding="utf-8"), re.MULTILINE)) == set(
        RULES_BY_NAME
    )


@pytest.mark.skipif(PROMTOOL is None, reason="ALERTS NOT CHECKED BY PROMETHEUS: promtool is not here")
def test_prometheus_takes_the_rules() -> None:
    ran = subprocess.run([PROMTOOL or "", "check", "rules", str(RULES)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(RULES_BY_NAME)} rules found" in ran.stdout
