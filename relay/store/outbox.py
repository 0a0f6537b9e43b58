"""The outbox: an event and one delivery for each subscription that it matches, in the transaction that records it.

Order at flat cost: of each (job, subscription) only the head is `pending`, and so in the index that claims read; its
followers are `blocked` until the head has ended (see `deliveries.mark`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import bindparam, insert, select, text
from sqlalchemy.engine import Connection

from relay.core.delivery import Claimed
from relay.core.events import Event
from relay.core.filters import matches
from relay.core.records import Lease
from relay.core.subscription import Subscription
from relay.ids import new_id
from relay.store.tables import OPEN_DELIVERY, DeliveryRow, EventRow, JobCallbackRow, SubscriptionRow

EVENTS = EventRow.__table__  # type: ignore[attr-defined]
DELIVERIES = DeliveryRow.__table__  # type: ignore[attr-defined]
CALLBACKS = JobCallbackRow.__table__  # type: ignore[attr-defined]
SUBSCRIPTIONS = SubscriptionRow.__table__  # type: ignore[attr-defined]

INSERT_EVENT = insert(EVENTS)
INSERT_DELIVERY = insert(DELIVERIES)
CALLBACKS_OF_JOBS = select(CALLBACKS.c.job_uid, CALLBACKS.c.subscription_id).where(
    CALLBACKS.c.job_uid.in_(bindparam("job_uids", expanding=True))
)
OPEN_OF_JOBS = (
    select(DELIVERIES.c.job_uid, DELIVERIES.c.subscription_id)
    .where(DELIVERIES.c.job_uid.in_(bindparam("job_uids", expanding=True)))
    .where(text(f"{OPEN_DELIVERY} AND priority < 2"))
    .distinct()
)
MATCHED_BY = select(
    SUBSCRIPTIONS.c.id, SUBSCRIPTIONS.c.types, SUBSCRIPTIONS.c.source, SUBSCRIPTIONS.c.callback, SUBSCRIPTIONS.c.config
)
CHUNK = 1_000


class SubscriptionBook:
    """What the outbox needs to know of each subscription, read once and kept until one of them changes."""

    def __init__(self) -> None:
        self._all: dict[str, Subscription] | None = None
        self._by_kind: dict[tuple[str, str, bool], tuple[Subscription, ...]] = {}

    def forget(self) -> None:
        """A subscription changed, or a transaction that may have changed one was undone."""
        self._all = None
        self._by_kind.clear()

    def get(self, connection: Connection, subscription_id: str) -> Subscription | None:
        """One of them by id."""
        return self._load(connection).get(subscription_id)

    def matching(self, connection: Connection, event: Event) -> tuple[Subscription, ...]:
        """The subscriptions whose types and source match, callbacks apart."""
        known = self._load(connection)
        key = (event.type, event.source, event.job_uid is not None)
        found = self._by_kind.get(key)
        if found is None:
            found = tuple(s for s in known.values() if matches(s, event.type, event.source, job_event=key[2]))
            self._by_kind[key] = found
        return found

    def _load(self, connection: Connection) -> dict[str, Subscription]:
        if self._all is None:
            self._all = {
                row.id: Subscription(
                    id=row.id,
                    sink="",
                    types=None if row.types is None else tuple(row.types),
                    source=row.source,
                    callback=bool(row.callback),
                    ordering=row.config.get("ordering", "job"),
                )
                for row in connection.execute(MATCHED_BY)
            }
            self._by_kind.clear()
        return self._all


class Outbox:
    """Writes events and their deliveries; shared by everything that records one."""

    def __init__(self, book: SubscriptionBook) -> None:
        self.book = book

    def insert(
        self, connection: Connection, entries: Sequence[tuple[Event, Lease | None]]
    ) -> dict[str, tuple[Claimed, ...]]:
        """Writes the events in the order given. Returns, by event id, the deliveries that were leased at once."""
        if not entries:
            return {}
        connection.execute(INSERT_EVENT, [event_values(event) for event, _ in entries])
        job_uids = sorted({event.job_uid for event, _ in entries if event.job_uid is not None})
        callbacks = self._callbacks(connection, job_uids)
        busy = open_pairs(connection, job_uids)
        rows: list[dict[str, Any]] = []
        claimed: dict[str, tuple[Claimed, ...]] = {}
        for event, lease in entries:
            targets: Iterable[Subscription] = self.book.matching(connection, event)
            if event.job_uid in callbacks:
                targets = (*targets, *callbacks[event.job_uid])
            for subscription in targets:
                row = delivery_values(event, subscription, busy, lease)
                rows.append(row)
                if row["lease_token"] is not None and lease is not None:
                    taken = claimed_from(row, event, lease)
                    claimed[event.id] = (*claimed.get(event.id, ()), taken)
        if rows:
            connection.execute(INSERT_DELIVERY, rows)
        return claimed

    def _callbacks(self, connection: Connection, job_uids: Sequence[str]) -> dict[str | None, list[Subscription]]:
        found: dict[str | None, list[Subscription]] = {}
        for chunk in chunks(job_uids):
            for row in connection.execute(CALLBACKS_OF_JOBS, {"job_uids": chunk}):
                subscription = self.book.get(connection, row.subscription_id)
                if subscription is not None:
                    found.setdefault(row.job_uid, []).append(subscription)
        return found


def open_pairs(connection: Connection, job_uids: Sequence[str]) -> set[tuple[str, str]]:
    """The (job, subscription) pairs that have a delivery which has not ended."""
    found: set[tuple[str, str]] = set()
    for chunk in chunks(job_uids):
        found.update(
            (row.job_uid, row.subscription_id) for row in connection.execute(OPEN_OF_JOBS, {"job_uids": chunk})
        )
    return found


def chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    """In pieces that fit a statement's parameters."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


def event_values(event: Event) -> dict[str, Any]:
    """The row of an event."""
    return {
        "id": event.id,
        "job_uid": event.job_uid,
        "sequence": event.sequence,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "time": event.time,
        "recorded_at": event.recorded_at,
        "body": event.body,
    }


def delivery_values(
    event: Event, subscription: Subscription, busy: set[tuple[str, str]], lease: Lease | None
) -> dict[str, Any]:
    """The row of a new delivery: blocked behind an open one of its job and subscription, which `busy` lists and this
    extends; else pending, and leased where `lease` covers the subscription."""
    pair = (event.job_uid, subscription.id)
    ordered = event.job_uid is not None and subscription.ordering == "job"
    blocked = ordered and pair in busy
    if ordered:
        busy.add(pair)  # type: ignore[arg-type]
    leased = lease is not None and not blocked and subscription.id in lease.subscription_ids
    return {
        "id": new_id("dlv", event.recorded_at),
        "event_id": event.id,
        "subscription_id": subscription.id,
        "job_uid": event.job_uid,
        "sequence": event.sequence,
        "state": "blocked" if blocked else "pending",
        "due_at": lease.until if leased and lease is not None else event.recorded_at,
        "lease_token": lease.token if leased and lease is not None else None,
        "created_at": event.recorded_at,
    }


def claimed_from(row: dict[str, Any], event: Event, lease: Lease) -> Claimed:
    """The value of a delivery that was leased as it was written."""
    return Claimed(
        id=row["id"],
        event=event,
        subscription_id=row["subscription_id"],
        job_uid=event.job_uid,
        lease_token=lease.token,
        lease_until=lease.until,
        created_at=row["created_at"],
    )
