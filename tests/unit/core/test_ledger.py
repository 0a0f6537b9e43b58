"""The ledger of a write that must not happen twice."""

from typing import Any

import pytest

from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.ledger import SETTLE_SECONDS, Entry
from relay.core.jsontext import dumps, loads

NOW = 1779271208.0
ENTRY = Entry(record="note", target={"deal_id": 7}, portal="acme.example", at=NOW)


def response(status: int | None = None, error: str | None = None) -> Response:
    return Response(started_at=NOW, duration_ms=1.0, status_code=status, error=error)


@pytest.mark.parametrize("entry", [ENTRY, ENTRY.done(12), ENTRY.done()])
def test_entry_is_read_as_it_was_remembered(entry: Entry) -> None:
    assert ledger.read_entry(loads(dumps(dict(entry.memory())))) == entry


def test_nothing_is_remembered_of_a_write_that_was_not_carried_out() -> None:
    assert ledger.read_entry(ledger.CLEARED) is None


@pytest.mark.parametrize(
    "memory",
    [
        {"state": "intended"},
        {**ENTRY.memory(), "state": "maybe"},
        {**ENTRY.memory(), "at": "now"},
        {**ENTRY.memory(), "target": None},
        {"message": {}, "ts": "1"},
    ],
)
def test_entry_that_cannot_be_read_is_of_no_portal(memory: Any) -> None:
    found = ledger.read_entry(memory)
    assert found is not None
    assert (found.portal, found.state) == ("", "intended")


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (NOW, SETTLE_SECONDS),
        (NOW - 20, SETTLE_SECONDS - 20),
        (NOW - SETTLE_SECONDS, 0.0),
        (NOW - 86_400, 0.0),
        (NOW + 86_400, SETTLE_SECONDS),  # the clock was set back
    ],
)
def test_absence_counts_once_the_entry_has_settled(at: float, seconds: float) -> None:
    entry = Entry(record="note", portal="p", at=at)
    assert entry.settles_in(NOW) == seconds
    outcome, memory = entry.waiting(NOW)
    assert (outcome.verdict, outcome.wait_seconds, outcome.in_doubt) == ("retry", seconds, True)
    assert outcome.retry_after_seconds is None, "others need not wait"
    assert memory["at"] == min(at, NOW)


@pytest.mark.parametrize("error", ["connect", "dns", "tls", "refused", "proxy", "credential", "render"])
def test_request_that_was_never_sent_leaves_no_doubt(error: str) -> None:
    assert ledger.never_sent(response(error=error))
    assert not ledger.is_doubtful(response(error=error))


@pytest.mark.parametrize(
    ("given", "doubtful"),
    [
        (response(error="timeout"), True),
        (response(error="read"), True),
        (response(error="protocol"), True),
        (response(error="cancelled"), True),
        (response(200, error="read"), True),
        (response(), True),
        (response(500), True),
        (response(503), True),
        (response(200), False),
        (response(400), False),
        (response(429), False),
    ],
)
def test_sink_may_have_done_what_it_does_not_say(given: Response, doubtful: bool) -> None:
    assert ledger.is_doubtful(given) is doubtful


@pytest.mark.parametrize("verdict", ["retry", "disable"])
def test_failed_question_keeps_the_doubt(verdict: Any) -> None:
    found = ledger.still_in_doubt(Outcome(verdict=verdict, reason="http_401", retry_after_seconds=2.0))
    assert (found.verdict, found.in_doubt, found.retry_after_seconds) == (verdict, True, 2.0)


def test_refused_question_is_for_a_person() -> None:
    found = ledger.still_in_doubt(Outcome(verdict="dead", reason="http_400"))
    assert (found.verdict, found.in_doubt, found.reason) == ("uncertain", True, "http_400")


def test_key_names_the_event() -> None:
    assert ledger.event_key("evt_1") == "event/evt_1"


@pytest.mark.parametrize(
    ("memory", "is_open"),
    [
        ({}, False),
        (ENTRY.memory(), True),
        (ENTRY.done(12).memory(), False),
        ({**ENTRY.memory(), **ledger.SETTLED}, False),
        ({"state": "written", "made": {"notes": "9"}}, False),
        ({"ts": "1.5", "message": {}}, False),
    ],
)
def test_memory_with_a_write_that_may_have_been_carried_out_is_open(memory: Any, is_open: bool) -> None:
    assert ledger.is_open(memory) is is_open


@pytest.mark.parametrize(
    ("memory", "after"),
    [
        (ENTRY.memory(), {}),
        ({**ENTRY.memory(), "made": {"notes": "9"}, "keyed": True}, {"made": {"notes": "9"}}),
        ({"unreadable": 1}, {}),
        ({}, {}),
    ],
)
def test_record_that_was_not_written_is_forgotten_and_others_are_not(memory: Any, after: Any) -> None:
    assert ledger.not_sent(memory) == after


def test_request_without_time_left_was_never_sent() -> None:
    assert ledger.never_sent(response(error="unsent"))
    assert not ledger.is_doubtful(response(error="unsent"))


@pytest.mark.parametrize("outcome", [ledger.WRITTEN, ENTRY.waiting(NOW)[0]])
def test_attempt_that_only_reads_the_ledger_says_nothing_about_the_sink(outcome: Outcome) -> None:
    assert not outcome.judges_sink
