"""The outbox: an event and one delivery for each subscription that it matches, in the transaction that records it.

Order at flat cost: of each (job, subscription) only the head is `pending`, and so in the index that claims read; its
followers are `blocked` until the head has ended (see `deliveries.mark`).
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import select, text
from sqlalchemy.engine import Connection

from relay.core.delivery import Claimed
from relay.core.events import Event
from relay.core.filters import matches
from relay.core.records import Lease, Recorded
from relay.core.subscription import Subscription
from relay.ids import new_id
from relay.store.notices import notify
from relay.store.statements import SQLITE, Sql, insert_into, json_list, many, query, run, sql
from relay.store.tables import OPEN_DELIVERY, DeliveryRow, EventRow, JobCallbackRow, SubscriptionRow

EVENTS = EventRow.__table__  # type: ignore[attr-defined]
DELIVERIES = DeliveryRow.__table__  # type: ignore[attr-defined]
CALLBACKS = JobCallbackRow.__table__  # type: ignore[attr-defined]
SUBSCRIPTIONS = SubscriptionRow.__table__  # type: ignore[attr-defined]

_EVENT = ("id", "job_uid", "sequence", "type", "source", "subject", "time", "recorded_at", "body")
_DELIVERY = (
    *("id", "event_id", "subscription_id", "job_uid", "sequence", "state"),
    *("due_at", "lease_token", "created_at"),
)
INSERT_EVENT = insert_into(EVENTS, *_EVENT)
INSERT_DELIVERY = insert_into(
    DELIVERIES, *_DELIVERY, constants={"priority": "0", "attempt_count": "0", "made_count": "0"}
)
CALLBACKS_OF_JOBS = sql(
    lambda words: (
        f"SELECT job_uid, subscription_id, types FROM job_callbacks WHERE job_uid IN {words.listed('job_uids')}"
    )
)


def _open_pairs(chain: str) -> Sql:
    """With PostgreSQL one seek a job, whatever it thinks of the table: OFFSET keeps it from turning the join around."""
    of_one = f"SELECT job_uid, subscription_id FROM deliveries WHERE {OPEN_DELIVERY} AND {chain} AND job_uid"
    return sql(
        lambda words: of_one.replace("SELECT", "SELECT DISTINCT", 1) + f" IN {words.listed('job_uids')}",
        lambda words: (
            f"""
SELECT DISTINCT found.job_uid, found.subscription_id FROM {words.listed("job_uids")} AS wanted(uid)
CROSS JOIN LATERAL ({of_one} = wanted.uid OFFSET 0) AS found
"""
        ),
    )


OPEN_OF_JOBS, OPEN_BY_HAND_OF_JOBS = _open_pairs("priority < 2"), _open_pairs("priority = 2")
# Whoever records an event of a job and whoever ends its head hold the job: else a follower could be left blocked.
HOLD_JOBS = sql(lambda words: f"SELECT uid FROM jobs WHERE uid IN {words.listed('uids')} {words.locked('jobs')}")
MATCHED_BY = select(
    *(SUBSCRIPTIONS.c.id, SUBSCRIPTIONS.c.types, SUBSCRIPTIONS.c.source, SUBSCRIPTIONS.c.state),
    *(SUBSCRIPTIONS.c.callback, SUBSCRIPTIONS.c.config),
)

# Advisory locks, held until the transaction ends: by many who match events, or by one who changes a subscription.
USE_BOOK = "SELECT pg_advisory_xact_lock_shared(7212601)"
CHANGE_BOOK = "SELECT pg_advisory_xact_lock(7212601)"
VERSION = "SELECT number FROM versions WHERE name = 'subscriptions'"
RAISE_VERSION = """
INSERT INTO versions (name, number) VALUES ('subscriptions', 1)
ON CONFLICT (name) DO UPDATE SET number = versions.number + 1
"""

# Once there was one it is never taken back: a node that knows of it need not be told again.
ANY_CALLBACK = """
SELECT EXISTS (SELECT 1 FROM versions WHERE name = 'callbacks')
  OR EXISTS (SELECT 1 FROM subscriptions WHERE callback = 1)
"""
NOTE_CALLBACK = "INSERT INTO versions (name, number) VALUES ('callbacks', 1) ON CONFLICT (name) DO NOTHING"
READ_AT_ONCE = 1_000
"""Subscriptions by their ids: a statement has only so many parameters."""
MAX_CACHED = 1_000
"""Kinds of events, and callbacks, of which it is kept what they match and what they are."""


Callback = tuple[Subscription, frozenset[str] | None]
"""One of a job's callbacks, and the types of the job's events that it gets; None: all."""


class SubscriptionBook:
    """What the outbox needs to know of each subscription, read once and kept until one of them changes.

    Those that a callback URL made match no event by themselves, and there may be as many of them as jobs: of these it
    is only known whether there are any, and each is read when a job that names it has an event.

    Other nodes change subscriptions too: with PostgreSQL each transaction that matches events first makes sure that
    what is kept is still true, and no change can end before such a transaction has. Only the writer uses it, but for
    `version`.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._checked = False
        self._all: dict[str, Subscription] | None = None
        self._by_kind: dict[tuple[str, str, bool], tuple[Subscription, ...]] = {}
        self._callbacks: dict[str, Subscription] = {}
        self._has_callbacks = False
        self._changing = False
        self.version = 0
        """Rises with every committed change: what is cached elsewhere is then read again."""

    def changed(self, connection: Connection) -> None:
        """The open transaction changes a subscription."""
        if connection.dialect.name != SQLITE:
            run(connection, CHANGE_BOOK)
            run(connection, RAISE_VERSION)
            notify(connection, "subscriptions")
            self._number = None
        self._forget()
        self._changing = True

    def committed(self) -> None:
        """The open transaction is durable."""
        self._checked = False
        if self._changing:
            self._changing = False
            self.version += 1

    def rolled_back(self) -> None:
        """The open transaction was undone, and with it perhaps what was read in it."""
        self._checked = self._changing = False
        self._number = None  # else a change of another node that was found in it would not be told
        self._forget()

    def _forget(self) -> None:
        self._all = None
        self._by_kind.clear()
        self._callbacks.clear()

    def get(self, connection: Connection, subscription_id: str) -> Subscription | None:
        """One of them by id."""
        return self.several(connection, (subscription_id,)).get(subscription_id)

    def several(self, connection: Connection, ids: Iterable[str]) -> dict[str, Subscription]:
        """Those of these ids that are there, callbacks or not."""
        known = self._load(connection)
        found = {one: known.get(one) or self._callbacks.get(one) for one in ids}
        unknown = sorted(one for one, subscription in found.items() if subscription is None)
        if unknown and self._has_callbacks:
            read: dict[str, Subscription] = {}
            for start in range(0, len(unknown), READ_AT_ONCE):
                chosen = SUBSCRIPTIONS.c.id.in_(unknown[start : start + READ_AT_ONCE])
                read |= {row.id: what_it_matches(row) for row in connection.execute(MATCHED_BY.where(chosen))}
            if len(self._callbacks) + len(read) > MAX_CACHED:
                self._callbacks.clear()
            self._callbacks.update(read)
            found.update(read)
        return {one: subscription for one, subscription in found.items() if subscription is not None}

    def callback_made(self, connection: Connection) -> None:
        """The open transaction makes a callback: only where none was known before, others have to be told."""
        if self._all is None or not self._has_callbacks:
            self.changed(connection)
            run(connection, NOTE_CALLBACK)

    def has_callbacks(self, connection: Connection) -> bool:
        """Whether any callback exists."""
        self._load(connection)
        return self._has_callbacks

    def matching(self, connection: Connection, event: Event) -> tuple[Subscription, ...]:
        """The subscriptions whose types and source match, callbacks apart."""
        known = self._load(connection)
        key = (event.type, event.source, event.job_uid is not None)
        found = self._by_kind.get(key)
        if found is None:
            found = tuple(s for s in known.values() if matches(s, event.type, event.source, job_event=key[2]))
            if len(self._by_kind) >= MAX_CACHED:
                self._by_kind.clear()
            self._by_kind[key] = found
        return found

    def _check(self, connection: Connection) -> None:
        if self._checked or connection.dialect.name == SQLITE:
            return
        run(connection, USE_BOOK)
        number = run(connection, VERSION).scalar_one_or_none() or 0
        if number != self._number:
            self._number = number
            self._forget()
            self._changing = True  # what others keep of subscriptions is old as well
        self._checked = True

    def _load(self, connection: Connection) -> dict[str, Subscription]:
        self._check(connection)
        if self._all is None:
            listed = connection.execute(MATCHED_BY.where(text("callback = 0")))
            self._all = {row.id: what_it_matches(row) for row in listed}
            self._by_kind.clear()
            self._callbacks.clear()
            self._has_callbacks = bool(run(connection, ANY_CALLBACK).scalar_one())
            if self._has_callbacks:
                run(connection, NOTE_CALLBACK)
        return self._all


def what_it_matches(row: Any) -> Subscription:
    """A subscription without its sink, from a row of `MATCHED_BY`."""
    return Subscription(
        id=row.id,
        sink="",
        types=None if row.types is None else tuple(row.types),
        source=row.source,
        state=row.state,
        callback=bool(row.callback),
        ordering=row.config.get("ordering", "job"),
    )


class Outbox:
    """Writes events and their deliveries; shared by everything that records one."""

    def __init__(self, book: SubscriptionBook) -> None:
        self.book = book

    def insert(self, connection: Connection, entries: Sequence[tuple[Event, Lease | None]]) -> dict[str, Recorded]:
        """Writes the events in the order given. Returns, by event id, what came of those that have deliveries."""
        if not entries:
            return {}
        many(connection, INSERT_EVENT, [event_values(event) for event, _ in entries])
        for event, _ in entries:
            notify(connection, f"event {event.job_uid or ''}")
        job_uids = sorted({event.job_uid for event, _ in entries if event.job_uid is not None})
        callbacks = self._callbacks(connection, job_uids)
        busy = open_pairs(connection, job_uids)
        deliveries: list[dict[str, Any]] = []
        recorded: dict[str, Recorded] = {}
        for event, lease in entries:
            targets: Iterable[Subscription] = self.book.matching(connection, event)
            if event.job_uid in callbacks:
                wanted = (one for one, types in callbacks[event.job_uid] if types is None or event.type in types)
                targets = (*targets, *wanted)
            made = [delivery_values(event, subscription, busy, lease) for subscription in targets]
            if made:
                deliveries += made
                recorded[event.id] = Recorded(
                    claimed=tuple(
                        claimed_from(row, event, lease) for row in made if lease is not None and row["lease_token"]
                    ),
                    due=any(row["state"] == "pending" and row["lease_token"] is None for row in made),
                )
        many(connection, INSERT_DELIVERY, deliveries)
        return recorded

    def _callbacks(self, connection: Connection, job_uids: Sequence[str]) -> dict[str | None, list[Callback]]:
        found: dict[str | None, list[Callback]] = {}
        if not job_uids or not self.book.has_callbacks(connection):
            return found
        links = run(connection, CALLBACKS_OF_JOBS, job_uids=json_list(job_uids)).all()
        known = self.book.several(connection, {row.subscription_id for row in links})
        for row in links:
            if row.subscription_id in known:
                found.setdefault(row.job_uid, []).append((known[row.subscription_id], callback_types(row.types)))
        return found


@lru_cache(maxsize=MAX_CACHED)
def callback_types(stored: str | None) -> frozenset[str] | None:
    """The types of a row of `job_callbacks`."""
    return None if stored is None else frozenset(orjson.loads(stored))


def hold_jobs(connection: Connection, uids: Sequence[str]) -> None:
    """Keeps other nodes from recording events of these jobs until the transaction ends."""
    if uids and connection.dialect.name != SQLITE:
        run(connection, HOLD_JOBS, uids=json_list(sorted(set(uids))))


def open_pairs(connection: Connection, job_uids: Sequence[str], *, by_hand: bool = False) -> set[tuple[str, str]]:
    """The (job, subscription) pairs that have a delivery which has not ended; `by_hand`: one that was asked for."""
    if not job_uids:
        return set()
    statement = OPEN_BY_HAND_OF_JOBS if by_hand else OPEN_OF_JOBS
    found = query(connection, statement, job_uids=json_list(job_uids))
    return {(job_uid, subscription_id) for job_uid, subscription_id in found}


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
    event: Event,
    subscription: Subscription,
    busy: set[tuple[str, str]],
    lease: Lease | None = None,
    now: float | None = None,
) -> dict[str, Any]:
    """The row of a new delivery: blocked behind an open one of its job and subscription, which `busy` lists and this
    extends; else pending, and leased where `lease` covers the subscription. `now`: when, if later than the event."""
    created_at = event.recorded_at if now is None else now
    pair = (event.job_uid, subscription.id)
    ordered = event.job_uid is not None and subscription.ordering == "job"
    blocked = ordered and pair in busy
    if ordered:
        busy.add(pair)  # type: ignore[arg-type]
    leased = lease is not None and not blocked and subscription.id in lease.subscription_ids
    return {
        "id": new_id("dlv", created_at),
        "event_id": event.id,
        "subscription_id": subscription.id,
        "job_uid": event.job_uid,
        "sequence": event.sequence,
        "state": "blocked" if blocked else "pending",
        "due_at": lease.until if leased and lease is not None else created_at,
        "lease_token": lease.token if leased and lease is not None else None,
        "created_at": created_at,
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
