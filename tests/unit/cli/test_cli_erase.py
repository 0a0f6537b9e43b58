"""`relay erase` against a stub server."""

import json
from typing import Any

import pytest

from relay.cli import run
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

PATH = "POST /v1/erasures"


def answer(**fields: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("jobs", "events", "deliveries", "attempts", "intents", "in_flight"), 0)
    return {**counts, "next_cursor": None, **fields}


def test_all_parts_of_an_erasure_are_counted_together(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says(PATH, answer(jobs=1_200, events=5, next_cursor="more"))
    stub.says(PATH, answer(jobs=34, attempts=7, intents=1))
    assert run(["erase", "--metadata", "email=kim=@example.com"]) == 0
    assert [json.loads(seen[2]) for seen in stub.seen] == [
        {"metadata": {"email": "kim=@example.com"}},
        {"metadata": {"email": "kim=@example.com"}, "cursor": "more"},
    ]
    assert capsys.readouterr().out == ("erased 1,234 jobs, 5 events, 0 deliveries, 7 attempts, 1 intents\n")


def test_creates_in_flight_are_a_failure_to_repeat(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says(PATH, answer(in_flight=2))
    assert run(["erase", "--group", "spring"]) == 1
    assert "2 creates that match are in flight: run this again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        *([], ["--job", "a", "--group", "b"], ["--job", "a", "--subject", "b"]),
        *(["--metadata", "email"], ["--metadata", "=x"], ["--metadata", "a="]),
    ],
)
def test_anything_but_one_selection_is_misuse(
    stub: Stub, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert run(["erase", *options]) == 2
    assert stub.seen == []
    assert capsys.readouterr().err.startswith("relay: ")
