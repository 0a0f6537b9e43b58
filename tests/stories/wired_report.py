"""What the story `wired` found: what each target got beside what it should get. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table

from relay.cli.demo.live import table
from tests.stories.story import Findings, drawn
from tests.vendors.endpoint import Message

_EVENT_ID = re.compile(r"\bevt_[0-9a-z]{26}\b")
_DIGEST = re.compile(r"\A([\d,]+) events?\b[^:\n]*: ")
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


def results_table(results: Iterable[Result]) -> Table:
    """What each target got."""
    rows = [(one.name, one.requests, len(one.due), len(one.got), one.refused) for one in results]
    return table(("target", "requests", "expected", "events", "refused"), rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class WiredReport(Findings):
    """What the story found.

    recorded    the number of all events, and how many of them are of jobs
    told        last words of the types of the other ones
    """

    recorded: int
    of_jobs: int
    told: frozenset[str]
    results: tuple[Result, ...]

    def checks(self) -> Iterable[tuple[object, str]]:
        """What must not be."""
        arrived, twice = self.report.events_delivered, self.report.duplicates
        yield twice or arrived != self.of_jobs, f"of {self.of_jobs} events of jobs {arrived} arrived, {twice} twice"
        for kind in MUST_TELL:
            yield kind not in self.told, f"nothing was told of “{kind}”"
        for result in self.results:
            yield result.problems, f"{result.name}: {', '.join(result.problems)}"

    def sentences(self) -> list[str]:
        """The result in a few sentences."""
        events = sum(len(result.got) for result in self.results)
        requests, refused, skipped, lost = (
            sum(getattr(result, name) for result in self.results) for name in ("requests", "refused", "skipped", "lost")
        )
        return [
            f"{self.report.jobs} jobs, {self.recorded} events. {len(self.results)} targets got {events} events in "
            f"{requests} requests, {refused or 'none'} refused.",
            f"Events skipped, since a CRM does not have the deal: {skipped}. Answers of CRMs lost on the way: {lost}; "
            "the relay asked, and wrote nothing twice.",
        ]

    def details(self) -> RenderableType:
        """A few messages of each target, then what each got."""
        shown = (drawn(f"{result.name} ({result.gets})", result.messages) for result in self.results)
        return Group(*shown, results_table(self.results))


def examples(messages: Sequence[Message]) -> tuple[Message, ...]:
    """One or two example messages: the one with the most events or, if each has one, the first; and the last."""
    if not messages:
        return ()
    fullest = max(messages, key=lambda message: len(arrivals(message)))
    return (fullest,) if fullest is messages[-1] else (fullest, messages[-1])
