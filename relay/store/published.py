"""Published events: recorded once each, with their deliveries, in the order in which they came.

The same source and id again, at any node and at the same time, gets the id of the event that is there. With a partition
key an event takes its place in a stream, whose row is locked as a job's is.

A publisher may also choose the filters of its account, and a long transaction delays every other write. So a
transaction has a bounded number of events, bytes and comparisons.
"""

from collections.abc import Sequence
from itertools import chain

from sqlalchemy.engine import Connection

from relay.core.events.event import Event
from relay.core.published import Publication, Taken
from relay.store.databases.database import Database, Scoped
from relay.store.databases.group_commit import MAX_GROUP_ITEMS, alone
from relay.store.databases.locks import MATCH, locking
from relay.store.databases.statements import SQLITE, fetch, insert_lists, json_list, run_many, sql
from relay.store.outbox.recording import EVENT_COLUMNS, Outbox, event_values, placed
from relay.store.schema.tables import EventRow

MAX_EVENTS, MAX_BYTES, MAX_COMPARED = 400, 4 * 1024 * 1024, 5_000
"""Of a transaction, unless a single event needs more: its events, the bytes of their bodies, and the comparisons of
filters with them. Each takes 5 to 50 ms."""

# Writes published events, unless they are there.
INSERT_PUBLISHED = insert_lists(
    *(EventRow, *EVENT_COLUMNS, "stream", "identity"),
    end=" ON CONFLICT (identity) WHERE identity IS NOT NULL DO NOTHING",
)
# The published events of some identities.
OF_IDENTITIES = sql("SELECT identity, id, type FROM events WHERE identity $among(identities) AND identity IS NOT NULL")


class PublishedStore(Scoped):
    """Records published events."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._of_all = self
        """Views for accounts share it, so that their calls share transactions."""

    async def record(self, publications: Sequence[Publication]) -> list[Taken]:
        """Records the events, in their order, and their deliveries: in one transaction, shared with other calls, or in
        several."""
        if not all(self._sees(one.event.owner) for one in publications):
            raise ValueError("an event of another owner")
        taken: list[Taken] = []
        while len(taken) < len(publications):
            taken += await self._database.write(self._of_all._record, publications[len(taken) :])
        return taken

    @alone(MAX_GROUP_ITEMS)
    @locking(lambda item: [MATCH])
    def _record(self, connection: Connection, items: Sequence[Sequence[Publication]]) -> list[list[Taken]]:
        """Returns the recorded events of each call: as many of the first ones as the transaction has room for."""
        wanted = [item[:count] for item, count in zip(items, self._counts(connection, items), strict=True)]
        first: dict[str, Event] = {}
        for one in chain.from_iterable(wanted):
            first.setdefault(one.identity, one.event)
        events = dict(zip(first, placed(connection, list(first.values())), strict=True))
        written = list(events.items())
        if connection.dialect.name != SQLITE:
            # Events without a stream are in key order, or two nodes that publish the same would deadlock.
            written.sort(key=lambda one: ("s", "") if one[1].stream else ("", one[0]))
        values = [{**event_values(event), "stream": event.stream, "identity": identity} for identity, event in written]
        run_many(connection, INSERT_PUBLISHED, values)
        there = _known(connection, list(first))
        made = [event for identity, event in events.items() if there[identity][0] == event.id]
        self._outbox.deliver(connection, [(event, None) for event in made])
        fresh = {event.id for event in made}
        return [[_taken(one.event, there[one.identity], fresh) for one in item] for item in wanted]

    def _counts(self, connection: Connection, items: Sequence[Sequence[Publication]]) -> list[int]:
        """Number of events of each call that the transaction has room for: the oldest call's first event always, so no
        call waits for ever."""
        counts = [0] * len(items)
        events = size = compared = 0
        for place in sorted(range(len(items)), key=lambda place: items[place][0].event.recorded_at):
            for one in items[place]:
                events += 1
                size += len(one.event.body)
                compared += self._outbox.subscriptions.comparisons_of(connection, one.event)
                if events > 1 and (events > MAX_EVENTS or size > MAX_BYTES or compared > MAX_COMPARED):
                    return counts
                counts[place] += 1
        return counts


def _taken(event: Event, recorded: tuple[str, str], fresh: set[str]) -> Taken:
    id, type = recorded
    return Taken(id=id, known=event.id not in fresh, same=type == event.type)


def _known(connection: Connection, identities: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The ids and types of the events that are recorded, by identity."""
    found = fetch(connection, OF_IDENTITIES, identities=json_list(identities))
    return {row[0]: (row[1], row[2]) for row in found}
