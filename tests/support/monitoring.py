"""The files of `deploy/` for Prometheus and Grafana: panels, rules, and the names in their expressions."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from relay.metrics import Metrics
from tests.support.system_programs import system_program

ROOT = Path(__file__).resolve().parents[2]
BOARD = ROOT / "deploy" / "grafana" / "revor-relay.json"
ALERTS = ROOT / "deploy" / "alerts.yml"
RECORDING = ROOT / "deploy" / "recording.yml"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
OF_SCRAPES = {"instance", "job"}
"""The labels that Prometheus adds to each series."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the board. `grid`: x, y, width and height, in 24 columns."""

    id: int
    kind: str
    title: str
    description: str
    unit: str
    grid: tuple[int, int, int, int]
    expressions: tuple[str, ...]


def board() -> dict[str, Any]:
    """The board as Grafana imports it."""
    document: dict[str, Any] = json.loads(BOARD.read_text(encoding="utf-8"))
    return document


def panels() -> Iterator[Panel]:
    """The board's panels, rows included."""
    for panel in board()["panels"]:
        place = panel["gridPos"]
        yield Panel(
            id=panel["id"],
            kind=panel["type"],
            title=panel["title"],
            description=panel.get("description", ""),
            unit=panel.get("fieldConfig", {}).get("defaults", {}).get("unit", ""),
            grid=(place["x"], place["y"], place["w"], place["h"]),
            expressions=tuple(target["expr"] for target in panel.get("targets", ())),
        )


def filled(expression: str, window: str) -> str:
    """An expression with Grafana's variables replaced: all sources, accounts and nodes, rates over `window`."""
    return re.sub(r"\$(source|account|node)\b", ".*", expression).replace("$__rate_interval", window)


def rules(file: Path) -> list[dict[str, Any]]:
    """The rules of a file, which has one group."""
    (group,) = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    assert set(group) == {"name", "rules"}
    found: list[dict[str, Any]] = group["rules"]
    return found


def recorded() -> dict[str, str]:
    """The expressions of the recording rules, by the name of their series."""
    return {rule["record"]: rule["expr"] for rule in rules(RECORDING)}


def series() -> dict[str, set[str]]:
    """The names of all series, each with its labels: those of `/metrics`, recorded ones, and Prometheus' own `up`."""
    found: dict[str, set[str]] = {"up": {*OF_SCRAPES}}
    for metric in Metrics().__dict__.values():
        kind, name = getattr(metric, "_type", None), getattr(metric, "_name", None)
        for suffix in SUFFIXES.get(kind, ()) if name else ():
            le = {"le"} if suffix == "_bucket" else set()
            found[f"{name}{suffix}"] = {*metric._labelnames, *le, *OF_SCRAPES}
    for name in recorded():
        found[name] = {label for label in name.partition(":")[0].split("_") if label}
    return found


def wrong_names(expression: str) -> list[str]:
    """The metrics that do not exist, and the labels that a metric of the expression does not have."""
    known = series()
    used = re.findall(r"(?<![\w:])(up|:?(?:\w+:)?relay_[\w:]+)(?:\{([^}]*)\})?", without_texts(expression))
    assert used, f"no metric in {expression}"
    kept = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(",")}
    wrong = []
    for name, selector in used:
        if name not in known:
            wrong.append(name)
        else:
            asked = set(re.findall(r"(\w+)(?==)", selector.replace("!~", "=").replace("!=", "="))) | kept
            wrong += [f"{name}{{{label}}}" for label in sorted(asked - known[name])]
    return wrong


def without_texts(expression: str) -> str:
    """An expression without its quoted texts."""
    return re.sub(r'"[^"]*"', '""', expression)


def promtool(*arguments: str) -> str:
    """The output of Prometheus' own checker. Skips the test if it cannot be installed."""
    program = system_program("promtool", "prometheus")
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
