"""The Grafana board, the recording rules and the alerts of `deploy/` speak of metrics that exist, and agree."""

import re
from itertools import combinations

import pytest

from relay.core.events.event import JOB_EVENTS, RELAY_EVENTS
from tests.support.monitoring import ALERTS, ROOT, Panel, board, panels, recorded, rules, without_texts, wrong_names

PANELS = [panel for panel in panels() if panel.kind != "row"]
HOME = "https://github.com/revor-relay/revor-relay/blob/main/"
TITLES = [panel.title for panel in PANELS]


def test_board_has_its_rows_and_variables() -> None:
    titles = [panel.title for panel in panels() if panel.kind == "row"]
    assert titles == ["What is late, and what needs someone", "Budget", "Sinks", "Campaigns", "Node"]
    variables = board()["templating"]["list"]
    assert [variable["name"] for variable in variables] == ["datasource", "source", "account", "node"]
    for variable in variables[1:]:
        assert not wrong_names(re.sub(r"label_values\((.*), \w+\)", r"\1", variable["definition"]))
    sources = {target["datasource"]["uid"] for panel in board()["panels"] for target in panel.get("targets", ())}
    assert sources == {"${datasource}"}


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_panel_asks_for_metrics_and_labels_that_exist(panel: Panel) -> None:
    assert panel.expressions
    assert [wrong for expression in panel.expressions for wrong in wrong_names(expression)] == []
    variables = {name for expression in panel.expressions for name in re.findall(r"\$(\w+)", expression)}
    assert variables <= {"source", "account", "node", "__rate_interval"}


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_panel_has_the_unit_of_its_metrics(panel: Panel) -> None:
    names = re.findall(r"relay_\w+", without_texts(" ".join(panel.expressions)))
    units = {
        "s" if re.search(r"_seconds(_bucket|_sum)?$", name) else "bytes" if "_bytes" in name else "" for name in names
    }
    (unit,) = units or {""}
    if "count by" in panel.expressions[0]:
        unit = ""  # of series, not of their values
    assert panel.unit == unit if unit else panel.unit in ("none", "reqps", "ops", "percentunit")


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_panel_says_in_a_sentence_what_it_shows(panel: Panel) -> None:
    assert panel.description.endswith(".")
    assert len(panel.description) >= 30


def test_no_panel_covers_another() -> None:
    everything = list(panels())
    assert len({panel.id for panel in everything}) == len({panel.title for panel in everything}) == len(everything)
    cells = [
        {(x + right, y + down) for right in range(w) for down in range(h)}
        for x, y, w, h in (p.grid for p in everything)
    ]
    assert all(0 <= x < 24 for one in cells for x, _ in one)
    assert not [(a, b) for (a, one), (b, other) in combinations(enumerate(cells), 2) if one & other]


def test_types_of_events_exist() -> None:
    known = {*RELAY_EVENTS, *(f"ai.revor.job.{name}" for name in JOB_EVENTS)}
    asked = [text for p in PANELS for e in p.expressions for text in re.findall(r'type=~?"([^"]+)"', e)]
    assert asked
    for pattern in asked:
        for one in _alternatives(pattern):
            assert any(re.fullmatch(one, name) for name in known), one


def _alternatives(pattern: str) -> list[str]:
    """Each choice of a pattern such as `a(b|c(d|e))` by itself."""
    inner = re.search(r"\(([^()]*)\)", pattern)
    if inner is None:
        return [pattern]
    return [
        one
        for choice in inner[1].split("|")
        for one in _alternatives(pattern[: inner.start()] + choice + pattern[inner.end() :])
    ]


def test_recording_rules_are_named_by_level_metric_and_operations() -> None:
    for name, expression in recorded().items():
        level, metric, operations = name.split(":")
        assert not wrong_names(expression)
        assert metric in expression
        assert operations
        kept = re.findall(r"by \(([^)]*)\)", expression)
        assert sorted(level.split("_")) == sorted(kept[0].split(", ") if kept else [""])


def test_board_and_alerts_compute_the_same() -> None:
    """A recorded expression is part of an alert and shown by a panel; what an alert watches is on the board."""
    on_board = " ".join(expression for panel in PANELS for expression in panel.expressions)
    in_alerts = {rule["alert"]: " ".join(rule["expr"].split()) for rule in rules(ALERTS)}
    for name, expression in recorded().items():
        assert name in on_board
        assert any(expression in alert for alert in in_alerts.values()), name
    for alert, expression in in_alerts.items():
        watched = set(re.findall(r"\brelay_\w+|\bup\b", without_texts(expression)))
        shown = {name for name in watched if re.search(rf"(?<![a-z_]){name}", on_board)}
        assert watched - shown <= {"relay_credits_low"}, alert  # the credits themselves are shown


@pytest.mark.parametrize("alert", [rule["alert"] for rule in rules(ALERTS)])
def test_runbook_exists_in_the_repository_and_on_the_site(alert: str) -> None:
    """One word as heading has the same anchor on both."""
    (url,) = [rule["annotations"]["runbook_url"] for rule in rules(ALERTS) if rule["alert"] == alert]
    path, _, anchor = url.removeprefix(HOME).partition("#")
    page = (ROOT / path).read_text(encoding="utf-8")
    assert anchor == alert.lower()
    assert re.search(rf"^### {alert}$", page, re.MULTILINE), f"{path} has no runbook of {alert}"
