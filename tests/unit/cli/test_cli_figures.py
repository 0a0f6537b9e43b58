"""`relay figures`: numbers with units and times, as a summary and as tables."""

import json
from typing import Any

import pytest

from relay.cli import run
from relay.cli.figures import bars, course
from relay.core.figures import FIGURES
from tests.unit.cli.test_cli_client import Stub, stub
from tests.unit.cli.test_cli_sources import Terminal

__all__ = ["stub"]


def point(hour: int, count: int, total: float, p50: float | None = None) -> dict[str, Any]:
    return {"time": f"2026-05-20T{hour:02}:00:00.000Z", "count": count, "total": total, "p50": p50, "p95": p50}


def series(name: str, *points: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "label": "", "points": list(points)}


def shows(stub: Stub, *items: dict[str, Any]) -> None:
    stub.says("GET /v1/figures", {"span": "hour", "items": list(items)})


def test_named_figures_are_tables_with_bars(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    shows(stub, series("events", point(8, 2, 2.0), point(9, 16, 16.0)), series("jobs_ended"))
    assert run(["figures", "events", "jobs_ended", "--label", "revor/default", "--since", "2026-05-20T08:00:00Z"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "events per hour: ▂█",
        "BEGAN\tCOUNT\tTOTAL\tP50\tP95\tBAR",
        "2026-05-20T08:00:00.000Z\t2\t2.0\t-\t-\t▂",
        "2026-05-20T09:00:00.000Z\t16\t16.0\t-\t-\t█",
        "",
        "jobs_ended per hour: nothing yet",
    ]
    assert stub.seen[0][0].endswith(
        "?name=events%2Cjobs_ended&span=hour&label=revor%2Fdefault&since=2026-05-20T08%3A00%3A00Z"
    )


def test_json_is_the_document_of_the_api(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    shows(stub, series("events", point(8, 1, 1.0)))
    assert run(["figures", "events", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["name"] == "events"


@pytest.mark.parametrize("arguments", [["--since", "yesterday"], ["--span", "week"]])
def test_wrong_options_are_refused_before_anything_is_asked(stub: Stub, arguments: list[str]) -> None:
    assert run(["figures", *arguments]) == 2
    assert stub.seen == []


def _on_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    assert run(["figures", *arguments]) == 0
    return [line.rstrip() for line in shown.getvalue().splitlines()]


def test_summary_has_numbers_units_and_times(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    delays = series("detection_delay_seconds", point(8, 3, 6.0, 1.5), point(9, 1, 2.0, 2.5))
    none = series("jobs_failed"), series("price_seconds")
    events = series("events", point(8, 1200, 1200.0), point(10, 16, 16.0))
    shows(stub, events, delays, series("new", point(9, 1, 1.0)), *none)
    lines = _on_terminal(monkeypatch)
    assert [line.split() for line in lines[:5]] == [
        ["FIGURE", "SUM/MEAN", "LAST", "PEAK", "UNIT", "COURSE"],
        ["events", "1,216", "16", "1,200", "events", "█▁▁"],
        ["detection_delay_seconds", "2", "-", "2.5", "s", "▅█"],
        ["new", "1", "0", "1", "count", "▁█▁"],
        ["jobs_failed", "0", "0", "0", "jobs", "▁▁▁"],
    ], "what has no value has no row"
    assert " ".join(lines[6:]).startswith("2026-05-20 08:00 to 2026-05-20 11:00 UTC. SUM of what is counted")
    assert max(map(len, lines)) <= 80
    assert "since=" in stub.seen[0][0], "by default the last 24 hours"


def test_summary_is_plain_numbers_for_a_program(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    shows(stub, series("events", point(8, 1200, 1200.0)))
    shows(stub, series("events"))
    assert run(["figures"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split("\t") == ["events", "1200", "1200", "1200", "events", "█"]
    assert run(["figures"]) == 0
    assert capsys.readouterr().out == "nothing yet: figures begin with the first job\n"


def test_table_of_a_figure_names_its_unit(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    delays = series("detection_delay_seconds", point(8, 3, 6.0, 1.5), point(9, 1, 2.0, 2.5))
    shows(stub, delays, series("requests_own", point(8, 1, 2.25)))
    assert _on_terminal(monkeypatch, "detection_delay_seconds", "requests_own") == [
        "detection_delay_seconds per hour, median in s: ▅█",
        "BEGAN             COUNT  MEDIAN S  P95 S  BAR",
        "2026-05-20 08:00  3      1.5       1.5    ▅",
        "2026-05-20 09:00  1      2.5       2.5    █",
        "",
        "requests_own per hour, mean in requests/s: █",
        "BEGAN             REQUESTS/S  BAR",
        "2026-05-20 08:00  2.25        █",
    ]


def test_course_has_at_most_twelve_bars() -> None:
    assert course([float(value) for value in range(24)]) == bars([2 * value + 0.5 for value in range(12)])
    assert course([None, 1.0, None]) == " █ "
    assert len(course([1.0] * 169)) <= 12


def test_every_figure_has_a_unit() -> None:
    assert all(figure.unit for figure in FIGURES.values())
