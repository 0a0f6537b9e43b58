"""Deliveries: claimed by lease, marked after each attempt, listed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.engine import Connection

from relay.core.delivery import Claimed, Delivery
from relay.core.records import Lease, Mark, Marked, Page
from relay.errors import Conflict, NotFound
from relay.store.database import SqliteDatabase
from relay.store.outbox import DELIVERIES, EVENTS, Outbox, chunks
from relay.store.pages import decode_cursor, page_of
from relay.store.rows import attempt_from, attempt_values, delivery_from, event_from
from relay.store.tables import OPEN_DELIVERY, AttemptRow

ATTEMPTS = AttemptRow.__table__  # type: ignore[attr-defined]

# A loose index scan: one seek for each subscription that has something pending, however many rows it has.
PENDING_SUBSCRIPTIONS = text("""
WITH RECURSIVE pending(id) AS (
  SELECT MIN(subscription_id) FROM deliveries WHERE state = 'pending'
  UNION ALL
  SELECT (SELECT MIN(d.subscription_id) FROM deliveries d WHERE d.state = 'pending' AND d.subscription_id > pending.id)
  FROM pending WHERE pending.id IS NOT NULL
)
SELECT id,
  (SELECT MIN(due_at) FROM deliveries
   WHERE state = 'pending' AND subscription_id = pending.id AND priority = 0) AS fresh,
  (SELECT MIN(due_at) FROM deliveries
   WHERE state = 'pending' AND subscription_id = pending.id AND priority = 1) AS retry,
  (SELECT MIN(due_at) FROM deliveries
   WHERE state = 'pending' AND subscription_id = pending.id AND priority = 2) AS manual
FROM pending WHERE id IS NOT NULL
""")
DUE_IDS = text("""
SELECT id FROM deliveries
WHERE state = 'pending' AND subscription_id = :subscription_id AND priority = :priority AND due_at <= :now
ORDER BY due_at LIMIT :count
""")
TAKE = text("UPDATE deliveries SET lease_token = :token, due_at = :until WHERE id = :id AND state = 'pending'")
WITH_EVENT = (
    select(
        *(DELIVERIES.c[name] for name in ("id", "event_id", "subscription_id", "lease_token", "due_at")),
        *(DELIVERIES.c[name] for name in ("attempt_count", "made_count", "created_at", "job_uid", "sequence")),
        *(EVENTS.c[name] for name in ("type", "source", "subject", "time", "recorded_at", "body")),
    )
    .join(EVENTS, EVENTS.c.id == DELIVERIES.c.event_id)
    .where(DELIVERIES.c.id.in_(bindparam("ids", expanding=True)))
)
HELD = select(DELIVERIES.c.id, DELIVERIES.c.lease_token).where(
    DELIVERIES.c.id.in_(bindparam("ids", expanding=True)), text("state = 'pending'")
)
MARK = text("""
UPDATE deliveries SET state = :state, due_at = :due_at, lease_token = NULL,
  priority = CASE WHEN priority = 2 THEN 2 ELSE 1 END,
  attempt_count = attempt_count + 1, made_count = made_count + 1, ended_at = :ended_at, reason = :reason
WHERE id = :id
""")
INSERT_ATTEMPT = insert(ATTEMPTS)
FOLLOWERS = (
    select(DELIVERIES.c.id, DELIVERIES.c.job_uid, DELIVERIES.c.subscription_id, DELIVERIES.c.state)
    .where(DELIVERIES.c.job_uid.in_(bindparam("job_uids", expanding=True)))
    .where(text(f"{OPEN_DELIVERY} AND priority < 2"))
    .order_by(DELIVERIES.c.job_uid, DELIVERIES.c.subscription_id, DELIVERIES.c.sequence)
)
PROMOTE = text("""
UPDATE deliveries SET state = 'pending', due_at = :due_at, lease_token = :token WHERE id = :id AND state = 'blocked'
""")
DISABLE = text("""
UPDATE subscriptions SET state = 'disabled', disabled_reason = :reason, disabled_at = :now
WHERE id = :id AND state <> 'disabled'
""")
RELEASE = text("UPDATE deliveries SET lease_token = NULL, due_at = :now WHERE id = :id AND lease_token = :token")
RELEASE_ALL = text("UPDATE deliveries SET lease_token = NULL, due_at = :now WHERE lease_token IS NOT NULL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits for one subscription: when the first of each priority is due (None: nothing of it)."""

    subscription_id: str
    due_at: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """Take up to `count` deliveries of one subscription that are due at `now`, under a lease."""

    subscription_id: str
    priorities: tuple[int, ...]
    count: int
    now: float
    lease: Lease


class DeliveryStore:
    """Reads and writes of deliveries."""

    def __init__(self, database: SqliteDatabase, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    # --- writes

    async def claim(self, request: ClaimRequest) -> tuple[Claimed, ...]:
        """Takes due heads, in the order of `priorities` and then of their due time."""
        return await self._database.write(_claim, request)

    async def mark(self, mark: Mark) -> Marked:
        """Ends an attempt: its row, the delivery's new state, the follower's promotion and any events, at once."""
        return await self._database.write(self._mark, mark)

    async def release(self, claimed: Sequence[Claimed], now: float) -> None:
        """Gives deliveries back untried: they are due at once."""
        await self._database.write(_release, [(one.id, one.lease_token, now) for one in claimed])

    async def release_all(self, now: float) -> int:
        """Frees every lease: for the start of the only node that a SQLite file has. Returns how many there were."""
        return await self._database.write(_release_all, now)

    async def retry(self, delivery_id: str, now: float) -> Delivery:
        """Puts a delivery that ended back to pending with a fresh schedule, or makes a pending one due now.

        Raises NotFound, and Conflict for one that waits for an earlier event of its job.
        """
        await self._database.write(_retry, (delivery_id, now))
        found = await self.get(delivery_id)
        if found is None:
            raise NotFound(f"there is no delivery {delivery_id}")
        return found

    # --- reads

    async def backlog(self) -> list[Backlog]:
        """One entry for each subscription that has something pending."""
        return await self._database.read(_backlog)

    async def get(self, delivery_id: str) -> Delivery | None:
        """One with its attempts."""
        return await self._database.read(_get, delivery_id)

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        state: str | None = None,
        subscription_id: str | None = None,
        event_id: str | None = None,
    ) -> Page[Delivery]:
        """Newest first, without attempts."""
        return await self._database.read(_page, limit, decode_cursor(cursor), state, subscription_id, event_id)

    async def pending_count(self) -> int:
        """How many have not ended."""
        return await self._database.read(_pending_count)

    # --- batches

    def _mark(self, connection: Connection, items: Sequence[Mark]) -> Sequence[Marked]:
        held: dict[str, str | None] = {}
        for chunk in chunks([mark.claimed.id for mark in items]):
            held.update((row.id, row.lease_token) for row in connection.execute(HELD, {"ids": chunk}))
        kept = [mark for mark in items if held.get(mark.claimed.id) == mark.claimed.lease_token]
        if not kept:
            return [Marked(kept=False) for _ in items]
        connection.execute(MARK, [_mark_values(mark) for mark in kept])
        connection.execute(
            INSERT_ATTEMPT, [attempt_values(mark.claimed.id, mark.attempt_id, mark.attempt) for mark in kept]
        )
        for mark in kept:
            if mark.disable is not None:
                values = {"id": mark.claimed.subscription_id, "reason": mark.disable, "now": mark.now}
                connection.execute(DISABLE, values)
                self._outbox.book.forget()
        self._outbox.insert(connection, [(event, None) for mark in kept for event in mark.events])
        taken = _promote(connection, [mark for mark in kept if mark.state != "pending"])
        ids = {mark.claimed.id for mark in kept}
        return [Marked(kept=mark.claimed.id in ids, next=taken.get(mark.claimed.id)) for mark in items]


def _mark_values(mark: Mark) -> dict[str, Any]:
    ended = mark.state != "pending"
    return {
        "id": mark.claimed.id,
        "state": mark.state,
        "due_at": mark.now if mark.due_at is None else mark.due_at,
        "ended_at": mark.now if ended else None,
        "reason": mark.reason,
    }


def _promote(connection: Connection, ended: Sequence[Mark]) -> dict[str, Claimed]:
    """Makes the next delivery of each (job, subscription) whose head has ended pending: due at once, or taken under
    the mark's `next_lease`. Returns those taken, by the id of the delivery that ended."""
    by_pair = {
        (mark.claimed.job_uid, mark.claimed.subscription_id): mark for mark in ended if mark.claimed.job_uid is not None
    }
    if not by_pair:
        return {}
    heads: dict[tuple[str, str], Any] = {}
    for chunk in chunks(sorted({str(job_uid) for job_uid, _ in by_pair})):
        for row in connection.execute(FOLLOWERS, {"job_uids": chunk}):
            heads.setdefault((row.job_uid, row.subscription_id), row)
    promoted: list[dict[str, Any]] = []
    leased: dict[str, Mark] = {}
    for pair, row in heads.items():
        mark = by_pair.get(pair)
        if mark is None or row.state != "blocked":
            continue
        lease = mark.next_lease
        promoted.append(
            {
                "id": row.id,
                "due_at": mark.now if lease is None else lease.until,
                "token": None if lease is None else lease.token,
            }
        )
        if lease is not None:
            leased[row.id] = mark
    if promoted:
        connection.execute(PROMOTE, promoted)
    taken = _load_claimed(connection, sorted(leased))
    return {leased[claimed.id].claimed.id: claimed for claimed in taken}


def promote_strays(connection: Connection, pairs: Sequence[tuple[str, str]], now: float) -> int:
    """Promotes the first open delivery of each given (job, subscription) where it is blocked behind nothing."""
    count = 0
    for job_uid, subscription_id in pairs:
        rows = connection.execute(FOLLOWERS, {"job_uids": [job_uid]}).all()
        first = next((row for row in rows if row.subscription_id == subscription_id), None)
        if first is not None and first.state == "blocked":
            connection.execute(PROMOTE, {"id": first.id, "due_at": now, "token": None})
            count += 1
    return count


def _claim(connection: Connection, items: Sequence[ClaimRequest]) -> Sequence[tuple[Claimed, ...]]:
    results: list[tuple[Claimed, ...]] = []
    for request in items:
        ids: list[str] = []
        for priority in request.priorities:
            if len(ids) < request.count:
                parameters: dict[str, Any] = {
                    "subscription_id": request.subscription_id,
                    "priority": priority,
                    "now": request.now,
                    "count": request.count - len(ids),
                }
                ids.extend(row.id for row in connection.execute(DUE_IDS, parameters))
        if ids:
            lease = {"token": request.lease.token, "until": request.lease.until}
            connection.execute(TAKE, [{"id": delivery_id, **lease} for delivery_id in ids])
        results.append(_load_claimed(connection, ids))
    return results


def _load_claimed(connection: Connection, ids: Sequence[str]) -> tuple[Claimed, ...]:
    if not ids:
        return ()
    found = {row.id: row for row in connection.execute(WITH_EVENT, {"ids": ids})}
    return tuple(_claimed(found[delivery_id]) for delivery_id in ids if delivery_id in found)


def _claimed(row: Any) -> Claimed:
    return Claimed(
        id=row.id,
        event=event_from(row),
        subscription_id=row.subscription_id,
        job_uid=row.job_uid,
        lease_token=row.lease_token,
        lease_until=row.due_at,
        attempt_count=row.attempt_count,
        made_count=row.made_count,
        created_at=row.created_at,
    )


def _release(connection: Connection, items: Sequence[Sequence[tuple[str, str, float]]]) -> Sequence[None]:
    rows = [{"id": one, "token": token, "now": now} for item in items for one, token, now in item]
    if rows:
        connection.execute(RELEASE, rows)
    return [None] * len(items)


def _release_all(connection: Connection, items: Sequence[float]) -> Sequence[int]:
    return [connection.execute(RELEASE_ALL, {"now": now}).rowcount for now in items]


def _retry(connection: Connection, items: Sequence[tuple[str, float]]) -> Sequence[None | Exception]:
    results: list[None | Exception] = []
    for delivery_id, now in items:
        row = connection.execute(select(DELIVERIES).where(DELIVERIES.c.id == delivery_id)).one_or_none()
        if row is None:
            results.append(NotFound(f"there is no delivery {delivery_id}"))
        elif row.state == "blocked":
            results.append(
                Conflict(f"delivery {delivery_id} waits for an earlier event of its job", code="delivery_waits")
            )
        elif row.lease_token is not None:
            results.append(Conflict(f"delivery {delivery_id} is being attempted just now", code="delivery_in_flight"))
        else:
            values = {"state": "pending", "priority": 2, "due_at": now, "attempt_count": 0, "ended_at": None}
            connection.execute(update(DELIVERIES).where(DELIVERIES.c.id == delivery_id).values(**values, reason=None))
            results.append(None)
    return results


def _backlog(connection: Connection) -> list[Backlog]:
    return [
        Backlog(subscription_id=row.id, due_at=(row.fresh, row.retry, row.manual))
        for row in connection.execute(PENDING_SUBSCRIPTIONS)
    ]


_SHOWN = select(DELIVERIES, EVENTS.c.type).join(EVENTS, EVENTS.c.id == DELIVERIES.c.event_id)


def _get(connection: Connection, delivery_id: str) -> Delivery | None:
    row = connection.execute(_SHOWN.where(DELIVERIES.c.id == delivery_id)).one_or_none()
    if row is None:
        return None
    attempts = connection.execute(
        select(ATTEMPTS).where(ATTEMPTS.c.delivery_id == delivery_id).order_by(ATTEMPTS.c.number).limit(500)
    )
    waiting_for = None
    if row.state == "blocked":
        heads = connection.execute(FOLLOWERS, {"job_uids": [row.job_uid]})
        waiting_for = next((head.id for head in heads if head.subscription_id == row.subscription_id), None)
    return delivery_from(row, waiting_for=waiting_for, attempts=tuple(attempt_from(attempt) for attempt in attempts))


def page_statement(
    limit: int, before: str | None, state: str | None, subscription_id: str | None, event_id: str | None
) -> Any:
    """One page of deliveries, newest first."""
    statement = _SHOWN.order_by(DELIVERIES.c.id.desc()).limit(limit + 1)
    if before is not None:
        statement = statement.where(DELIVERIES.c.id < before)
    if state == "pending":
        statement = statement.where(text(f"deliveries.{OPEN_DELIVERY}"))
    elif state is not None:
        statement = statement.where(text(f"deliveries.state = '{_STATES[state]}'"))
    if subscription_id is not None:
        statement = statement.where(DELIVERIES.c.subscription_id == subscription_id)
    if event_id is not None:
        statement = statement.where(DELIVERIES.c.event_id == event_id)
    return statement


_STATES: Mapping[str, str] = {"delivered": "delivered", "dead": "dead", "cancelled": "cancelled"}


def _page(
    connection: Connection,
    limit: int,
    before: str | None,
    state: str | None,
    subscription_id: str | None,
    event_id: str | None,
) -> Page[Delivery]:
    rows = connection.execute(page_statement(limit, before, state, subscription_id, event_id)).all()
    return page_of(rows, limit, delivery_from, lambda row: row.id)


def _pending_count(connection: Connection) -> int:
    return int(connection.execute(text(f"SELECT COUNT(*) FROM deliveries WHERE {OPEN_DELIVERY}")).scalar_one())
