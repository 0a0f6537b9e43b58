"""`relay figures` against a stub server."""

import json
from typing import Any

import pytest

from relay.cli import run
from tests.unit.cli.test_cli_client import Stub, stub

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
