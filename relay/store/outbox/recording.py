"""The outbox: an event and one delivery per matching subscription, in the transaction that records the event.

Ordering at flat cost: only the head of each (job, subscription) is `pending` and so in the index that claims read. Its
followers are `blocked` until the head ends (see `attempt_results`).

Streams keep events without a job in order, as a job does for its own events. A stream's row holds the place of its last
event. It is locked while an event takes its place, and while the head of its deliveries ends: see `lock_jobs`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy.engine import Connection

from relay.core.deliveries.delivery import Claimed, at_once
from relay.core.events.event import INCIDENT_EVENTS, SUBSCRIPTION_DISABLED, Event, is_stream
from relay.core.incidents import Incident
from relay.core.records import Lease, Recorded
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import filters_of
from relay.core.subscriptions.subscription import Subscription
from relay.ids import new_id
from relay.store.databases.group_commit import collected
from relay.store.databases.notices import notify
from relay.store.databases.statements import (
    INTEGER,
    REAL,
    SQLITE,
    TEXT,
    Sql,
    fetch,
    in_turns,
    insert_lists,
    json_list,
    run,
    run_many,
    sql,
)
from relay.store.outbox.incident_recorder import NO_SUMMARY, IncidentRecorder, Summary, event_type_of, joined
from relay.store.outbox.subscription_cache import MAX_CACHED, SubscriptionCache
from relay.store.rows import event_from
from relay.store.schema.tables import OPEN_DELIVERY, DeliveryRow, EventRow

EVENT_COLUMNS = ("id", "job_uid", "sequence", "type", "source", "subject", "time", "recorded_at", "body", "owner")
_DELIVERY = (
    *("id", "event_id", "subscription_id", "job_uid", "sequence", "state"),
    *("due_at", "lease_token", "created_at", "owner"),
)
_ENDED = ("ended_at", "reason")
# Writes events.
INSERT_EVENT = insert_lists(EventRow, *EVENT_COLUMNS)
# Writes events without a job that are kept in order.
INSERT_ORDERED = insert_lists(EventRow, *EVENT_COLUMNS, "stream")
# Writes deliveries.
INSERT_DELIVERY = insert_lists(
    DeliveryRow, *_DELIVERY, constants={"priority": "0", "attempt_count": "0", "made_count": "0"}
)
# Writes deliveries that an incident stands for.
INSERT_COLLAPSED = insert_lists(
    DeliveryRow, *_DELIVERY, *_ENDED, constants={"priority": "0", "attempt_count": "0", "made_count": "0"}
)
# The callback subscriptions of some jobs.
CALLBACKS_OF_JOBS = sql(
    "SELECT job_uid, subscription_id, types FROM job_callbacks WHERE job_uid IN $json_values(job_uids)"
)


def _open_pairs(which: str) -> Sql:
    """On PostgreSQL one index seek per job, whatever the statistics say: OFFSET keeps the planner from reordering
    the join."""
    of_one = f"SELECT job_uid, subscription_id FROM deliveries WHERE {OPEN_DELIVERY} AND {which} AND job_uid"
    return sql(
        of_one.replace("SELECT", "SELECT DISTINCT", 1) + " IN $json_values(job_uids)",
        f"""
SELECT DISTINCT found.job_uid, found.subscription_id FROM $json_values(job_uids) AS wanted(uid)
CROSS JOIN LATERAL ({of_one} = wanted.uid OFFSET 0) AS found
""",
    )


# The subscriptions for which some jobs have open automatic, or manual, deliveries.
OPEN_OF_JOBS, OPEN_MANUAL_OF_JOBS = _open_pairs("priority < 2"), _open_pairs("priority = 2")
# Locks jobs. Recording an event and ending its head both lock the job. Otherwise a follower could stay blocked.
LOCK_JOBS = sql("SELECT uid FROM jobs WHERE uid IN $json_values(uids) $for_update(jobs)")
# The same for streams.
LOCK_STREAMS = sql("SELECT uid FROM streams WHERE uid IN $json_values(uids) $for_update(streams)")

_READ = ", ".join((*EVENT_COLUMNS, "stream", "identity"))
# The event of an incident that has this type. There is one that opens it, and one that closes it.
EVENT_OF_INCIDENT = f"SELECT {_READ} FROM events WHERE subject = :incident AND type = :type LIMIT 1"

Callback = tuple[Subscription, frozenset[str] | None]
"""A callback subscription of a job, and the event types it receives; None for all."""


class Outbox:
    """Writes events and their deliveries. Shared by every store that records events.

    on_made  called after each commit with the events that the store itself has made, in the writer's thread
    """

    def __init__(self, cache: SubscriptionCache) -> None:
        self.subscriptions = cache
        self.incidents = IncidentRecorder()
        self.on_made: Callable[[Sequence[Event]], object] = lambda events: None
        self._made: list[Event] = []

    def committed(self) -> None:
        """The open transaction was committed."""
        made, self._made = self._made, []
        if made:
            self.on_made(made)

    def rolled_back(self) -> None:
        """The open transaction was undone."""
        self._made = []

    def insert(
        self,
        connection: Connection,
        entries: Sequence[tuple[Event, Lease | None]],
        summary: Summary = NO_SUMMARY,
    ) -> dict[str, Recorded]:
        """Writes the events in the given order, then those of incidents. Returns what was recorded, by event id, for
        events that have deliveries. Those of streams are written at the end of the transaction, which locks streams
        last."""
        if summary.events:
            self._made += summary.events
            entries = [*entries, *((event, None) for event in summary.events)]
        ordered = [(event, summary) for event, _ in entries if event.stream is not None]
        if ordered:
            collected(connection, self._insert_ordered).extend(ordered)
            entries = [entry for entry in entries if entry[0].stream is None]
        if not entries:
            return {}
        run_many(connection, INSERT_EVENT, [event_values(event) for event, _ in entries])
        return self.deliver(connection, entries, summary)

    def _insert_ordered(self, connection: Connection, items: Sequence[tuple[Event, Summary]]) -> None:
        if not items:
            return
        events = placed(connection, [event for event, _ in items])
        run_many(connection, INSERT_ORDERED, [{**event_values(event), "stream": event.stream} for event in events])
        summaries = {id(summary): summary for _, summary in items}
        self.deliver(connection, [(event, None) for event in events], joined(list(summaries.values())))

    def lock_orders(self, connection: Connection, uids: Sequence[str]) -> None:
        """`lock_jobs`, together with the streams of the events that the open transaction will write at its end."""
        lock_jobs(connection, [*uids, *(event.stream for event, _ in collected(connection, self._insert_ordered))])

    def deliver(
        self,
        connection: Connection,
        entries: Sequence[tuple[Event, Lease | None]],
        summary: Summary = NO_SUMMARY,
    ) -> dict[str, Recorded]:
        """Writes the deliveries of events that the open transaction has written. Returns as `insert` does."""
        for event, _ in entries:
            notify(connection, f"event {event.job_uid or ''}")
        job_uids = sorted({event.job_uid for event, _ in entries if event.job_uid is not None})
        callbacks = self._callbacks(connection, job_uids)
        begun = {event.job_uid for event, _ in entries if event.sequence == 1}  # their first: nothing of them is open
        orders = {event.order_key for event, _ in entries if event.order_key is not None}
        busy = open_pairs(connection, sorted(orders - begun))
        deliveries: list[dict[str, Any]] = []
        collapsed: list[dict[str, Any]] = []
        recorded: dict[str, Recorded] = {}
        for event, lease in in_turns(connection, entries):
            targets: Iterable[Subscription] = self.subscriptions.matching(connection, event)
            if event.type == SUBSCRIPTION_DISABLED:  # a person reads it when it is over
                targets = [one for one in targets if one.incidents == "off" or one.id != event.subject]
            if event.job_uid in callbacks:
                wanted = (one for one, types in callbacks[event.job_uid] if types is None or event.type in types)
                targets = (*targets, *wanted)
            if summary is not NO_SUMMARY:
                targets, ended = self._without_collapsed(connection, event, targets, summary)
                collapsed += ended
            made = [delivery_values(event, subscription, busy, lease) for subscription in targets]
            if made:
                deliveries += made
                recorded[event.id] = Recorded(
                    claimed=tuple(
                        claimed_from(row, event, lease) for row in made if lease is not None and row["lease_token"]
                    ),
                    due=any(row["state"] == "pending" and row["lease_token"] is None for row in made),
                )
        run_many(connection, INSERT_DELIVERY, deliveries)
        run_many(connection, INSERT_COLLAPSED, collapsed)
        return recorded

    def _callbacks(self, connection: Connection, job_uids: Sequence[str]) -> dict[str | None, list[Callback]]:
        found: dict[str | None, list[Callback]] = {}
        if not job_uids or not self.subscriptions.has_callbacks(connection):
            return found
        links = run(connection, CALLBACKS_OF_JOBS, job_uids=json_list(job_uids)).all()
        known = self.subscriptions.several(connection, {row.subscription_id for row in links})
        for row in links:
            if row.subscription_id in known:
                found.setdefault(row.job_uid, []).append((known[row.subscription_id], callback_types(row.types)))
        return found

    def _without_collapsed(
        self, connection: Connection, event: Event, targets: Iterable[Subscription], summary: Summary
    ) -> tuple[list[Subscription], list[dict[str, Any]]]:
        """The subscriptions that get the event, and the rows of the deliveries that an incident stands for: cancelled,
        so that a person sees why and can still have them sent."""
        kept: list[Subscription] = []
        ended: list[dict[str, Any]] = []
        for subscription in targets:
            if event.type in INCIDENT_EVENTS and summary.withholds(event.subject, subscription):
                continue
            incident = summary.stands_for(event, subscription)
            if incident is None or not self._is_reported(connection, incident, subscription, summary):
                kept.append(subscription)
            else:
                end = {"state": "cancelled", "ended_at": event.recorded_at, "reason": f"incident {incident.id}"}
                ended.append({**delivery_values(event, subscription, set()), **end})
        return kept, ended

    def _is_reported(
        self, connection: Connection, incident: Incident, subscription: Subscription, summary: Summary
    ) -> bool:
        """True if the subscription's filters pass the event about the incident. If they do not, or cannot be read, it
        gets each failure."""
        filters = filters_of(subscription.filters)
        if filters is None:
            return True
        if filters.unreadable is not None:
            return False
        type = event_type_of(incident)
        event = next((one for one in summary.events if one.subject == incident.id and one.type == type), None)
        if event is None:
            row = run(connection, EVENT_OF_INCIDENT, incident=incident.id, type=type).one_or_none()
            event = None if row is None else event_from(row)
        return event is not None and filters.passes(EventView(event.body, event.compared))


@lru_cache(maxsize=MAX_CACHED)
def callback_types(stored: str | None) -> frozenset[str] | None:
    """The types of a `job_callbacks` row."""
    return None if stored is None else frozenset(orjson.loads(stored))


def lock_jobs(connection: Connection, uids: Sequence[str]) -> None:
    """Keeps other nodes from recording events of these jobs, or streams, until the transaction ends."""
    if uids and connection.dialect.name != SQLITE:
        streams = sorted({uid for uid in uids if is_stream(uid)})
        jobs = sorted(set(uids).difference(streams))
        if jobs:
            run(connection, LOCK_JOBS, uids=json_list(jobs))
        if streams:
            run(connection, LOCK_STREAMS, uids=json_list(streams))


def open_pairs(connection: Connection, job_uids: Sequence[str], *, manual: bool = False) -> set[tuple[str, str]]:
    """The (job, subscription) pairs with an open delivery. `manual`: with an open manual retry or replay."""
    if not job_uids:
        return set()
    statement = OPEN_MANUAL_OF_JOBS if manual else OPEN_OF_JOBS
    found = fetch(connection, statement, job_uids=json_list(job_uids))
    return {(job_uid, subscription_id) for job_uid, subscription_id in found}


def event_values(event: Event) -> dict[str, Any]:
    """The row of an event."""
    return {name: getattr(event, name) for name in EVENT_COLUMNS}


def delivery_values(
    event: Event,
    subscription: Subscription,
    busy: set[tuple[str, str]],
    lease: Lease | None = None,
    now: float | None = None,
) -> dict[str, Any]:
    """The row of a new delivery. It is blocked behind an open one of its job and subscription, listed in `busy`;
    otherwise pending, and leased if `lease` covers the subscription. Adds its pair to `busy`. `now`: the creation time,
    if later than the event's."""
    created_at = event.recorded_at if now is None else now
    pair = (event.order_key, subscription.id)
    ordered = event.order_key is not None and subscription.ordering == "job"
    blocked = ordered and pair in busy
    if ordered:
        busy.add(pair)  # type: ignore[arg-type]
    leased = lease is not None and not blocked and subscription.id in lease.subscription_ids
    return {
        "id": new_id("dlv", created_at),
        "event_id": event.id,
        "subscription_id": subscription.id,
        "job_uid": event.order_key,
        "sequence": event.sequence,
        "state": "blocked" if blocked else "pending",
        "due_at": lease.until if leased and lease is not None else at_once(created_at),
        "lease_token": lease.token if leased and lease is not None else None,
        "created_at": created_at,
        "owner": subscription.owner,
    }


def claimed_from(row: dict[str, Any], event: Event, lease: Lease) -> Claimed:
    """The value of a delivery that was leased on insertion."""
    return Claimed(
        id=row["id"],
        event=event,
        subscription_id=row["subscription_id"],
        lease_token=lease.token,
        lease_until=lease.until,
        created_at=row["created_at"],
    )


MAX_SEQUENCE = 2**31 - 1_000_000
"""The column's limit, less room for one transaction. Beyond it a stream restarts its numbering: after two billion
events, those open at that moment may be out of order."""
# Takes the next places of some streams, and locks the streams. Returns the last ones.
TAKE_PLACES = sql(
    f"""
INSERT INTO streams (uid, sequence, used_at)
SELECT m.uid, m.count, m.used_at FROM $json_rows(rows) AS m WHERE 1 = 1 ORDER BY m.uid
ON CONFLICT (uid) DO UPDATE SET sequence = excluded.sequence
  + CASE WHEN streams.sequence < {MAX_SEQUENCE} THEN streams.sequence ELSE 0 END,
  used_at = CASE WHEN excluded.used_at < streams.used_at + 3600 THEN streams.used_at ELSE excluded.used_at END
RETURNING uid, sequence
""",
    rows={"uid": TEXT, "count": INTEGER, "used_at": REAL},
)


def placed(connection: Connection, events: Sequence[Event]) -> list[Event]:
    """The events with their places in their streams. Locks the streams."""
    counts = Counter(event.stream for event in events if event.stream is not None)
    if not counts:
        return list(events)
    used_at = {event.stream: event.recorded_at for event in events}
    wanted = json_list([(uid, counts[uid], used_at[uid]) for uid in sorted(counts)])
    last: dict[str, int] = {row[0]: row[1] for row in fetch(connection, TAKE_PLACES, rows=wanted)}
    taken: Counter[str] = Counter()
    found: list[Event] = []
    for event in events:
        stream = event.stream
        if stream is not None:
            taken[stream] += 1
            event = replace(event, sequence=last[stream] - counts[stream] + taken[stream])
        found.append(event)
    return found
