"""The figures of `relay demo --wired`: what each target got beside what it should get. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from relay.cli.demo.report import Report
from relay.cli.demo.slack_channel import Message

_EVENT_ID = re.compile(r"\bevt_[0-9a-z]{26}\b")
_DIGEST = re.compile(r"\A([\d,]+) events?\b[^:\n]*: ")
MAX_EXAMPLES = 2
MUST_TELL = ("needs_reconnect", "recovered", "opened", "closed", "finished")
"""Last words of the types of events that the demo must have: the account breaks and works again, an incident opens and
closes, and the group finishes."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Events that arrived: by their ids, and those that a digest only counts."""

    ids: tuple[str, ...] = ()
    counted: int = 0

    def __add__(self, other: "Arrivals") -> "Arrivals":
        return Arrivals(self.ids + other.ids, self.counted + other.counted)

    def __len__(self) -> int:
        return len(self.ids) + self.counted


def arrivals(message: Message) -> Arrivals:
    """The events that a message tells. A digest says how many."""
    text = "\n".join((message.title, *(part for pair in message.fields for part in pair), message.footer))
    ids = tuple(dict.fromkeys(_EVENT_ID.findall(text)))
    digest = None if ids else _DIGEST.match(message.title)
    return Arrivals(ids, 0 if digest is None else int(digest[1].replace(",", "")))


def all_arrivals(messages: Iterable[Message]) -> Arrivals:
    """The events that all of these tell."""
    return sum(map(arrivals, messages), Arrivals())


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One target at the end.

    due       ids of the events that it should get
    got       what arrived
    refused   requests that the stand-in did not accept, and signatures that are wrong
    mentions  people and channels that its messages mention
    messages  one or two of them
    to_skip   events that are about people whom it does not know, and `skipped` those that the relay skipped
    lost      answers that were lost on the way
    """

    name: str
    kind: str
    gets: str
    requests: int
    due: frozenset[str]
    got: Arrivals
    refused: int
    mentions: int
    messages: tuple[Message, ...]
    to_skip: int = 0
    skipped: int = 0
    lost: int = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong. Which events a digest counts is not known: only how many there are."""
        ids = set(self.got.ids)
        found = (
            (len(self.due - ids) - self.got.counted, "missing"),
            (self.got.counted - len(self.due - ids), "too many in digests"),
            (len(ids - self.due), "not its own"),
            (sum(times - 1 for times in Counter(self.got.ids).values()), "twice"),
            (self.refused, "refused"),
            (self.mentions, "mentions"),
            (abs(self.to_skip - self.skipped), "skipped wrongly, or not"),
        )
        return tuple(f"{number} {what}" for number, what in found if number > 0)

    def shown(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "name": self.name,
            "kind": self.kind,
            "requests": self.requests,
            "events": len(self.got),
            "expected": len(self.due),
            "refused": self.refused,
            "skipped": self.skipped,
            "lost_answers": self.lost,
            "problems": list(self.problems),
            "messages": [as_text(message) for message in self.messages],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WiredReport:
    """What `relay demo --wired` found.

    report      the events of jobs that the structured webhook got, compared with the truth of the sandbox
    recorded    the number of all events, and how many of them are of jobs
    told        last words of the types of the other ones
    skipped     targets that are not run: names, and what they need
    """

    report: Report
    recorded: int
    of_jobs: int
    told: frozenset[str]
    results: tuple[Result, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not hold, a sentence each without the full stop."""
        report = self.report
        found = []
        if not report.ok or report.duplicates or report.events_delivered != self.of_jobs:
            found.append(
                f"of {self.of_jobs} events of jobs {report.events_delivered} arrived, {report.lost} are lost, "
                f"{report.duplicates} twice, {report.out_of_order} out of order"
            )
        found += [f"nothing was told of “{kind}”" for kind in MUST_TELL if kind not in self.told]
        found += [f"{result.name}: {', '.join(result.problems)}" for result in self.results if result.problems]
        return tuple(found)

    @property
    def ok(self) -> bool:
        """True if everything holds."""
        return not self.problems

    def shown(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "story": "wired",
            "jobs": self.report.jobs,
            "events": self.recorded,
            "owed": self.report.owed,
            "lost": self.report.lost,
            "duplicates": self.report.duplicates,
            "out_of_order": self.report.out_of_order,
            "targets": [result.shown() for result in self.results],
            "skipped": [{"name": name, "why": why} for name, why in self.skipped],
            "problems": list(self.problems),
            "elapsed_seconds": self.report.elapsed_seconds,
        }

    def lines(self) -> list[str]:
        """The result in a few sentences."""
        requests = sum(result.requests for result in self.results)
        events = sum(len(result.got) for result in self.results)
        refused = sum(result.refused for result in self.results)
        found = [f"Left out: {name}. {why[:1].upper()}{why[1:]}" for name, why in self.skipped]
        found += [
            f"{self.report.jobs} jobs, {self.recorded} events. {len(self.results)} targets got {events} events in "
            f"{requests} requests, {refused or 'none'} refused."
        ]
        skipped, lost = (sum(getattr(one, name) for one in self.results) for name in ("skipped", "lost"))
        if skipped or lost:
            found += [
                f"CRMs: {_are(skipped, 'event')} about a deal that they do not have, and {_were(skipped)} skipped. "
                f"{lost} answer{'s' * (lost != 1)} {_were(lost)} lost on the way: the relay asked, and wrote nothing "
                "twice."
            ]
        return found + (
            [f"Wrong: {problem}." for problem in self.problems]
            or ["Each target got exactly the events that it should get."]
        )


def _are(count: int, thing: str) -> str:
    return f"{count} {thing} is" if count == 1 else f"{count} {thing}s are"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def as_text(message: Message) -> str:
    """A message in lines, as people read it."""
    fields = (f"{label}: {value}" if label else value for label, value in message.fields)
    return "\n".join(line for line in (message.title, *fields, message.footer) if line)


def examples(messages: Sequence[Message]) -> tuple[Message, ...]:
    """One or two example messages: the one with the most events or, if each has one, the first; and the last."""
    if not messages:
        return ()
    fullest = max(messages, key=lambda message: len(arrivals(message)))
    return (fullest,) if fullest is messages[-1] else (fullest, messages[-1])
