"""The story `wired`: what counts as wrong, and its output."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from relay.cli.demo.report import Receipts, make_report
from relay.core.subscriptions.subscription import PROTOCOLS
from subscribers import registry
from tests.stories.story import drawn
from tests.stories.wired_report import MUST_TELL, Arrivals, Result, WiredReport, arrivals, examples
from tests.stories.wired_targets import TARGETS, Truth, for_people
from tests.vendors.endpoint import Message
from tests.vendors.stand_ins import CRMS

ONE, TWO, OTHER = (f"evt_{number:026}" for number in range(3))
DIGEST = Message(title="3 events in 2 seconds: 1 failed, 2 accepted\n• A job was accepted")
GOOD = Result(
    name="teams",
    gets="what people act on",
    requests=2,
    due=frozenset((ONE, TWO)),
    got=Arrivals((ONE, TWO)),
    refused=0,
    mentions=0,
    messages=(Message(title="A job failed", fields=(("Error", "no_credits"),), footer=f"Event {ONE}"), DIGEST),
)
REPORT = WiredReport(
    report=make_report([], Receipts(), speed=1.0, upstream_requests=0, elapsed_seconds=1.0),
    recorded=7,
    of_jobs=0,
    told=frozenset(MUST_TELL),
    results=(GOOD, replace(GOOD, name="discord")),
)


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, ()),
        ({"got": Arrivals((ONE,), 1)}, ()),
        ({"got": Arrivals((), 2)}, ()),
        ({"got": Arrivals((ONE,))}, ("1 missing",)),
        ({"got": Arrivals((ONE,), 2)}, ("1 too many in digests",)),
        ({"got": Arrivals((ONE, TWO, OTHER))}, ("1 not its own",)),
        ({"got": Arrivals((ONE, TWO, TWO))}, ("1 twice",)),
        ({"got": Arrivals((ONE, OTHER, OTHER))}, ("1 missing", "1 not its own", "1 twice")),
        ({"refused": 1}, ("1 refused",)),
        ({"mentions": 2}, ("2 mentions",)),
        ({"to_skip": 2, "skipped": 1}, ("1 skipped wrongly, or not",)),
        ({"to_skip": 1, "skipped": 1, "lost": 1}, ()),
    ],
)
def test_a_target_must_get_exactly_what_is_due(changes: dict[str, Any], problems: tuple[str, ...]) -> None:
    wrong = replace(GOOD, **changes)
    assert wrong.problems == problems
    report = replace(REPORT, results=(GOOD, wrong))
    assert report.problems == ((f"teams: {', '.join(problems)}",) if problems else ())


def test_the_report_tells_what_is_lost_and_what_was_never_told() -> None:
    assert REPORT.problems == ()
    assert REPORT.lines() == [
        "0 jobs, 7 events. 2 targets got 4 events in 4 requests, none refused.",
        "Events skipped, since a CRM does not have the deal: 0. Answers of CRMs lost on the way: 0; the relay asked, "
        "and wrote nothing twice.",
        "Everything holds.",
    ]
    wrong = replace(REPORT, told=frozenset(MUST_TELL[1:]), of_jobs=2)
    assert wrong.problems == (
        "of 2 events of jobs 0 arrived, 0 twice",
        "nothing was told of “needs_reconnect”",
    )
    assert wrong.lines()[2:] == [f"Wrong: {problem}." for problem in wrong.problems]
    assert replace(REPORT, report=replace(REPORT.report, lost=2)).problems == ("events of jobs: 2 lost",)


def test_a_message_tells_its_event_and_a_digest_how_many() -> None:
    assert arrivals(Message(title="A job failed", footer=f"Request x · Event {ONE}")) == Arrivals((ONE,))
    assert arrivals(Message(title="2 events", fields=((ONE, "a"), (TWO, "b"), (ONE, "c")))) == Arrivals((ONE, TWO))
    assert arrivals(DIGEST) == Arrivals((), 3)
    assert arrivals(Message(title="1,200 events in 2 hours: 1,200 accepted")) == Arrivals((), 1200)
    assert len(arrivals(Message(title="Group spring finished"))) == 0


def test_the_fullest_message_and_the_last_one_are_examples() -> None:
    first, last = GOOD.messages[0], Message(title="last")
    assert examples([first, DIGEST, first, last]) == (DIGEST, last)
    assert examples([first, last]) == (first, last)
    assert examples([first]) == (first,)
    assert examples([]) == ()


def test_messages_are_printed_with_the_first_of_their_fields() -> None:
    fields = tuple((f"field {number}", "x") for number in range(10))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(drawn("a channel", [Message(title="one\ntwo", fields=fields)]))
    console.print(REPORT.details())
    text = "\n".join(line.rstrip() for line in console.export_text().splitlines())
    assert text.startswith("a channel\n  one\n  two\n  field 0: x\n")
    assert "  field 7: x\n  … and 2 more\n" in text
    assert "teams (what people act on)\n  A job failed\n  Error: no_credits\n" in text
    assert max(map(len, text.splitlines())) <= 80


def test_there_is_a_target_of_every_kind() -> None:
    assert {target.kind for target in TARGETS} == set(registry.kinds()) - PROTOCOLS.keys()
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    paths = [target.sink_path for target in TARGETS if target.kind not in CRMS]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(
    ("type", "job", "expected"),
    [
        ("ai.revor.job.failed", {}, True),
        ("ai.revor.job.failed", {"failed_on_account": True}, False),
        ("ai.revor.job.running", {"failed_on_account": True}, False),
        ("ai.revor.account.needs_reconnect", None, True),
        ("ai.revor.account.recovered", None, False),
        ("ai.revor.account.added", None, False),
        ("relay.group.finished", None, True),
    ],
)
def test_people_get_incidents_instead_of_what_is_in_them(type: str, job: dict[str, Any] | None, expected: bool) -> None:
    of_job = {} if job is None else {"channel": "email", "deal": 5, **job}
    assert for_people(Truth(event={"type": type}, **of_job)) is expected
