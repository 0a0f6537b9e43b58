"""Published events: recorded once each, with their deliveries, in the order in which they came.

The same source and id again, at any node and at the same time, gets the id of the event that is there. With a partition
key an event takes its place in a stream, whose row is locked as a job's is.

A publisher may also choose the filters of its account, and a long transaction delays every other write. So one with
more than MAX_COMPARED comparisons is split.
"""

from collections.abc import Container, Sequence

from sqlalchemy.engine import Connection

from relay.core.events.event import Event
from relay.core.published import Publication, Taken
from relay.store.databases.database import Database, Scoped
from relay.store.databases.group_commit import alone
from relay.store.databases.locks import MATCH, locking
from relay.store.databases.statements import SQLITE, fetch, insert_into, json_list, run_many, sql
from relay.store.outbox.recording import EVENT_COLUMNS, Outbox, event_values, placed
from relay.store.schema.tables import EventRow

MAX_CALLS = 5
"""Calls of `record` that share a transaction."""
MAX_COMPARED = 5_000
"""Maximum comparisons of one call in a transaction, unless a single event needs more: 5 to 50 ms."""

# Writes a published event, unless it is there.
INSERT_PUBLISHED = (
    insert_into(EventRow, *EVENT_COLUMNS, "stream", "identity")
    + " ON CONFLICT (identity) WHERE identity IS NOT NULL DO NOTHING"
)
# The published events of some identities.
OF_IDENTITIES = sql("SELECT identity, id, type FROM events WHERE identity $among(identities) AND identity IS NOT NULL")


class PublishedStore(Scoped):
    """Records published events."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def record(self, publications: Sequence[Publication]) -> list[Taken]:
        """Records the events, in their order, and their deliveries: in one transaction, or in several if filters
        compare much."""
        if not all(self._sees(one.event.owner) for one in publications):
            raise ValueError("an event of another owner")
        taken: list[Taken] = []
        left, count = tuple(publications), len(publications)
        while left:
            answer: tuple[Taken, ...] | int = await self._database.write(self._record, left[:count])
            if isinstance(answer, int):
                count = answer
            else:
                taken += answer
                left = left[count:]
        return taken

    @alone(MAX_CALLS)
    @locking(lambda item: [MATCH])
    def _record(
        self, connection: Connection, items: Sequence[tuple[Publication, ...]]
    ) -> list[tuple[Taken, ...] | int]:
        """Returns the recorded events of each call. If a call has too many for one transaction, records none of them
        and returns the number that fits."""
        before = _known(connection, [one for item in items for one in item])
        counts = [self._count_at_once(connection, item, before) for item in items]
        every = [one for item, count in zip(items, counts, strict=True) if count == len(item) for one in item]
        first: dict[str, Publication] = {}
        for one in every:
            if one.identity not in before:
                first.setdefault(one.identity, one)
        new = list(first.values())
        events = placed(connection, [one.event for one in new])
        taken = [Publication(event, one.identity) for event, one in zip(events, new, strict=True)]
        written = taken
        if connection.dialect.name != SQLITE:
            # Events without a stream are in key order, or two nodes that publish the same would deadlock.
            written = sorted(taken, key=lambda one: ("", one.identity) if one.event.stream is None else ("s", ""))
        values = [{**event_values(one.event), "stream": one.event.stream, "identity": one.identity} for one in written]
        run_many(connection, INSERT_PUBLISHED, values)
        there = {**before, **_known(connection, taken)}  # another node may have been faster
        made = [one.event for one in taken if there[one.identity][0] == one.event.id]
        self._outbox.deliver(connection, [(event, None) for event in made])
        fresh = {event.id for event in made}
        return [
            tuple(_taken(one.event, there[one.identity], fresh) for one in item) if count == len(item) else count
            for item, count in zip(items, counts, strict=True)
        ]

    def _count_at_once(
        self, connection: Connection, publications: Sequence[Publication], before: Container[str]
    ) -> int:
        """Number of these events that can be recorded in a transaction, the first one always. `before`: the identities
        of those that are."""
        compared = 0
        for place, one in enumerate(publications):
            if one.identity not in before:
                compared += self._outbox.subscriptions.comparisons_of(connection, one.event)
                if compared > MAX_COMPARED and place:
                    return place
        return len(publications)


def _taken(event: Event, recorded: tuple[str, str], fresh: set[str]) -> Taken:
    id, type = recorded
    return Taken(id=id, known=event.id not in fresh, same=type == event.type)


def _known(connection: Connection, publications: Sequence[Publication]) -> dict[str, tuple[str, str]]:
    """The ids and types of the events that are recorded, by identity."""
    if not publications:
        return {}
    identities = json_list([one.identity for one in publications])
    return {row[0]: (row[1], row[2]) for row in fetch(connection, OF_IDENTITIES, identities=identities)}
