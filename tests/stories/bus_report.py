"""What the story `bus` found: what a reader of the broker got beside what the relay has recorded. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.table import Table

from relay.cli.demo.live import table
from tests.stories.story import Findings

ORDERS, STEPS = ("A-17", "A-18", "A-19", "A-20"), ("placed", "paid", "shipped")
"""What the other program publishes: each step of each order."""
TYPE_PREFIX = "com.acme.order."
JOB_SUBJECT = "jobs.{{ event.channel }}.{{ event.status }}"
ORDER_SUBJECT = "orders.{{ event.type | split: '.' | last }}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A message as the reader got it. `id`: its header `webhook-id`."""

    subject: str
    id: str
    event: Mapping[str, Any]

    @property
    def expected_subject(self) -> str:
        """The subject that the template should have made, worked out without it."""
        event = self.event
        if event["type"].startswith(TYPE_PREFIX):
            return f"orders.{event['type'].rpartition('.')[2]}"
        return f"jobs.{event['channel']}.{event['status']}"


def published_events() -> list[dict[str, Any]]:
    """What the other program publishes, in the order of each order."""
    return [
        {
            "specversion": "1.0",
            "id": f"{order}-{step}",
            "source": "/shop",
            "type": f"{TYPE_PREFIX}{step}",
            "subject": order,
            "partitionkey": order,
            "data": {"order": order, "step": number},
        }
        for number, step in enumerate(STEPS, 1)
        for order in ORDERS
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BusReport(Findings):
    """What the story found. `report` has what the reader got.

    server      name and version of the broker
    stored      messages that the broker itself says it has
    recorded    ids of the events that the relay has recorded
    accepted    events of the other program that were new, and `known` that were not
    arrivals    what the reader got, in its order
    """

    server: str
    stored: int
    recorded: frozenset[str]
    accepted: int
    known: int
    arrivals: Sequence[Arrival]

    def checks(self) -> Iterable[tuple[object, str]]:
        """What must not be."""
        ids = Counter(arrival.id for arrival in self.arrivals)
        sent = len(published_events())
        found = (
            (len(self.recorded - ids.keys()), "recorded events missing"),
            (len(ids.keys() - self.recorded), "messages without a recorded event"),
            (ids.total() - len(ids), "messages twice"),
            (sum(one.subject != one.expected_subject for one in self.arrivals), "messages under a wrong subject"),
            (_misplaced(self.arrivals), "orders with their steps out of order"),
            (abs(self.stored - len(self.arrivals)), "messages more or fewer at the broker than were read"),
            (abs(self.accepted - sent) + abs(self.known - sent), "published events counted wrongly"),
        )
        return [(number, f"{number} {what}") for number, what in found]

    def sentences(self) -> list[str]:
        """The result in a few sentences."""
        return [
            f"{len(self.recorded) - self.accepted} events of {self.report.jobs} jobs. Another program published "
            f"{self.accepted} events, and all of them again: {self.known} were known, and went out once.",
            f"{self.server} holds {self.stored} messages. A reader got {len(self.arrivals)} from it.",
        ]

    def details(self) -> Table:
        """The messages by subject."""
        return subjects_table(self.arrivals)


def subjects_table(arrivals: Sequence[Arrival]) -> Table:
    """Per subject the number of its messages, and of the jobs or orders that these are about."""
    sections = groupby(by_subject(arrivals), key=lambda row: row[0].rpartition(".")[0])
    return table(("subject", "messages", "about"), *(list(rows) for _, rows in sections), [("all", len(arrivals), "")])


def by_subject(arrivals: Sequence[Arrival]) -> list[tuple[str, int, int]]:
    """Per subject the number of its messages, and of the jobs or orders that these are about."""
    about: dict[str, set[str]] = {}
    for arrival in arrivals:
        about.setdefault(arrival.subject, set()).add(arrival.event["subject"])
    counts = Counter(arrival.subject for arrival in arrivals)
    return [(subject, counts[subject], len(about[subject])) for subject in sorted(counts)]


def _misplaced(arrivals: Sequence[Arrival]) -> int:
    """The number of orders of which a later step came before an earlier one."""
    steps: dict[str, list[int]] = {}
    for arrival in arrivals:
        if arrival.event["type"].startswith(TYPE_PREFIX):
            steps.setdefault(arrival.event["subject"], []).append(arrival.event["data"]["step"])
    return sum(of_order != sorted(of_order) for of_order in steps.values())
