"""Deliveries: claimed by lease, ended by attempt results, retried manually, listed."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.deliveries.delivery import Claimed, Delivery, at_once
from relay.core.records import (
    AttemptRecorded,
    AttemptResult,
    Claim,
    Groups,
    Page,
    Pending,
    Resolution,
    Skipped,
)
from relay.errors import Conflict, NotFound
from relay.store.databases.database import Database, Scoped
from relay.store.databases.group_commit import alone
from relay.store.databases.locks import MATCH, locking
from relay.store.databases.notices import notify
from relay.store.databases.pages import decode_cursor
from relay.store.databases.statements import json_list, run, run_many, sql
from relay.store.deliveries.attempt_results import AttemptRecorder, head_of, record_in_one_call
from relay.store.deliveries.bundles import claim_bundle
from relay.store.deliveries.claims import (
    ANY_NUMBER,
    EXPEDITE_CHUNK,
    Backlog,
    ClaimRequest,
    backlog,
    claim_probe,
    claim_singles,
    demote,
    expedite,
    is_pulled,
)
from relay.store.deliveries.counts import SCANNED, grouped
from relay.store.deliveries.delivery_pages import SHOWN, DeliveryFilter, read_deliveries
from relay.store.deliveries.memories import settle_event
from relay.store.outbox.ordering import queue_manual_retry
from relay.store.outbox.recording import Outbox, lock_jobs
from relay.store.outbox.subscription_cache import SubscriptionCache
from relay.store.rows import attempt_from, delivery_from
from relay.store.schema.tables import LISTED_DELIVERY, SKIPPED_DELIVERY, AttemptRow, DeliveryRow

# Returns a leased delivery untried.
RELEASE = "UPDATE deliveries SET lease_token = NULL, due_at = :due_at WHERE id = :id AND lease_token = :token"
# Releases every lease of a node. Those of programs that pull outlive it.
RELEASE_ALL = f"""
UPDATE deliveries SET lease_token = NULL, due_at = :due_at
WHERE lease_token IS NOT NULL AND NOT {is_pulled("deliveries")}
"""
# Ends an uncertain delivery that a person has found to be accepted.
SETTLE = """
UPDATE deliveries SET state = 'delivered', reason = 'settled', ended_at = :now WHERE id = :id AND state = 'uncertain'
"""
COUNTED = 1_000_000
"""At most this many pending deliveries are counted, which takes about a second."""
# The subscriptions whose deliveries wait, and why.
HELD_UP = """
SELECT id, CASE WHEN state <> 'enabled' THEN state WHEN kind = 'pull' THEN 'pulled' ELSE 'failing' END AS held_by
FROM subscriptions WHERE state <> 'enabled' OR failing_since IS NOT NULL OR kind = 'pull'
"""
HELD_BY = ("failing", "paused", "disabled", "pending", "pulled")


_HELD = ", ".join(
    f"COALESCE(SUM(CASE WHEN subscription_id IN $json_values({by}) THEN 1 ELSE 0 END), 0) AS {by}" for by in HELD_BY
)


# Counts open deliveries, and those of blocked subscriptions by reason.
PENDING = sql(
    f"""
SELECT COUNT(*) AS total, {_HELD}
FROM (SELECT subscription_id FROM deliveries WHERE {LISTED_DELIVERY} ORDER BY id LIMIT {COUNTED}) AS counted
"""
)
# The oldest open delivery that is not manual and whose subscription may be sent to.
OLDEST_PENDING = sql(
    f"""
SELECT created_at FROM deliveries
WHERE {LISTED_DELIVERY} AND priority < 2 AND subscription_id NOT IN $json_values(ids) ORDER BY id LIMIT 1
"""
)
MAX_SHOWN_ATTEMPTS = 500
# The attempts of a delivery, in order.
ATTEMPTS_OF_DELIVERY = (
    select(AttemptRow)
    .where(col(AttemptRow.delivery_id) == bindparam("delivery_id"))
    .order_by(col(AttemptRow.number))
    .limit(MAX_SHOWN_ATTEMPTS)
)


def skipped_statement(subscription_id: str | None, owner: str | None = None) -> str:
    """The number of skipped deliveries, of one or all subscriptions, and when the oldest was made."""
    which = "> ''" if subscription_id is None else "= :subscription_id"  # any: the index is by subscription
    return f"""
SELECT COUNT(*) AS number, MIN(created_at) AS since FROM (
  SELECT created_at FROM deliveries WHERE {SKIPPED_DELIVERY} AND subscription_id {which}{_of(owner)}
  ORDER BY subscription_id, created_at LIMIT {COUNTED}
) AS counted
"""


def uncertain_statement(owner: str | None = None) -> str:
    """The number of uncertain deliveries."""
    uncertain = f"state = 'uncertain'{_of(owner)}"
    return f"SELECT COUNT(*) FROM (SELECT id FROM deliveries WHERE {uncertain} ORDER BY id LIMIT {COUNTED}) AS counted"


def _of(owner: str | None) -> str:
    """Not by the index of owners, see `unindexed`: few rows have the state."""
    return "" if owner is None else " AND CASE WHEN owner IS NOT NULL THEN owner END = :owner"


class DeliveryStore(Scoped):
    """Reads and writes of deliveries."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._subscriptions = outbox.subscriptions
        self._recorder = AttemptRecorder(outbox)

    # --- writes

    async def claim(self, request: ClaimRequest) -> Claim:
        """Claims deliveries of one subscription: one for each request or, if it bundles, a bundle that is ready and
        single ones as far as there is room. Of a disabled subscription: a probe, if it is due."""
        if request.probe:
            return await self._database.write(claim_probe, request)
        return await self._database.write(claim_singles if request.bundle is None else claim_bundle, request)

    async def expedite(
        self, subscription_id: str, now: float, made_since: float = 0.0, free_count: int = ANY_NUMBER
    ) -> bool:
        """Makes retries due at once: of deliveries created since `made_since` that have had fewer than `free_count`
        attempts that used up nothing of the schedule. Works in chunks that do not delay other writes; returns
        whether more may be left."""
        item = (subscription_id, now, made_since, free_count)
        return await self._database.write(expedite, item) == EXPEDITE_CHUNK

    async def demote(self, subscription_id: str, now: float) -> bool:
        """Demotes first attempts that were due by `now`, which are backlogged because their sink fails, so that later
        events go first. Works in chunks that do not delay other writes; returns whether more may be left."""
        return await self._database.write(demote, (subscription_id, now)) == EXPEDITE_CHUNK

    async def record(self, *results: AttemptResult) -> tuple[AttemptRecorded, ...]:
        """Ends the attempts of one request: their rows, the deliveries' new states, the followers' promotion and any
        events, in one transaction. `results`: in the order of their bundle."""
        if len(results) > 1:
            return await self._database.write(self._recorder.record_bundles, results)
        if results[0].is_plain:
            recorded = await self._database.call(record_in_one_call, results)
            if recorded is not None:
                return recorded
        return await self._database.write(self._recorder.record, results)

    async def release(self, claimed: Sequence[Claimed], due_at: float) -> None:
        """Returns deliveries untried; they are due then, see `at_once`."""
        await self._database.write(_release, [(one.id, one.lease_token, due_at) for one in claimed])

    async def retry(self, delivery_id: str, now: float) -> Delivery:
        """Makes an ended delivery pending again with a fresh schedule, ordered among the manual retries of its job
        and subscription. A pending one becomes due at once and keeps its place.

        Raises NotFound. Raises Conflict if the delivery waits for an earlier event, is being attempted, or its
        subscription was removed.
        """
        if self._account is not None and await self.get(delivery_id) is None:
            raise NotFound(f"there is no delivery {delivery_id}")
        await self._database.write(self._retry, (delivery_id, now))
        found = await self.get(delivery_id)
        if found is None:
            raise NotFound(f"there is no delivery {delivery_id}")
        return found

    async def settle(self, delivery_id: str, fate: Resolution, now: float) -> Delivery:
        """Settles an uncertain delivery, once a person knows its fate: `sent` makes it delivered, `not_sent`
        makes it due now, and it is sent again.

        Raises NotFound. Raises Conflict if it is not uncertain, or if it is to be sent and its subscription was
        removed.
        """
        if self._account is not None and await self.get(delivery_id) is None:
            raise NotFound(f"there is no delivery {delivery_id}")
        await self._database.write(self._settle, (delivery_id, fate, now))
        found = await self.get(delivery_id)
        if found is None:
            raise NotFound(f"there is no delivery {delivery_id}")
        return found

    # --- reads

    async def backlog(self) -> list[Backlog]:
        """One entry per subscription with pending deliveries."""
        return await self._database.read(backlog)

    async def get(self, delivery_id: str) -> Delivery | None:
        """One delivery with its attempts."""
        return await self._database.read(_get, delivery_id, self._owner)

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        state: str | None = None,
        subscription_id: str | None = None,
        event_id: str | None = None,
        reason: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Page[Delivery]:
        """Newest first, without attempts. With several filters a page may be short, or empty, although there is a next
        one. Raises InvalidRequest for an invalid cursor."""
        wanted = DeliveryFilter(state, subscription_id, event_id, self._owner, reason, since, until)
        return await self._database.read(read_deliveries, wanted, limit, decode_cursor(cursor, prefix="dlv_"))

    async def groups(
        self,
        columns: Sequence[str],
        *,
        limit: int,
        newest: int = SCANNED,
        state: str | None = None,
        subscription_id: str | None = None,
        event_id: str | None = None,
        reason: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Groups:
        """The `newest` deliveries, counted by `columns`: any of `reason`, `subscription_id` and `day`."""
        wanted = DeliveryFilter(state, subscription_id, event_id, self._owner, reason, since, until)
        return await self._database.read(grouped, columns, limit, newest, wanted)

    async def pending(self) -> Pending:
        """The open deliveries. Reads as many rows as are open, plus the blocked subscriptions' rows that are older
        than the oldest."""
        return await self._database.read(_pending)

    async def skipped(self, subscription_id: str | None = None) -> Skipped:
        """The skipped deliveries of one subscription, or of all."""
        return await self._database.read(_skipped, subscription_id, self._owner)

    async def uncertain(self) -> int:
        """The number of uncertain deliveries."""
        return await self._database.read(_uncertain, self._owner)

    # --- batches

    @alone()
    @locking(lambda _: [MATCH])
    def _retry(self, connection: Connection, items: Sequence[tuple[str, float]]) -> Sequence[None | Exception]:
        return [_retry_one(connection, self._subscriptions, delivery_id, now) for delivery_id, now in items]

    @alone()
    @locking(lambda _: [MATCH])
    def _settle(
        self, connection: Connection, items: Sequence[tuple[str, Resolution, float]]
    ) -> Sequence[None | Exception]:
        results = [_settle_one(connection, self._subscriptions, *item) for item in items]
        for row, fate, now in sorted((one for one in results if not isinstance(one, Exception)), key=_place_of_memory):
            settle_event(connection, row.subscription_id, row.event_id, fate, now)
        return [one if isinstance(one, Exception) else None for one in results]


def _release(connection: Connection, items: Sequence[Sequence[tuple[str, str, float]]]) -> Sequence[None]:
    rows = [
        {"id": one, "token": token, "due_at": at} for one, token, at in sorted(row for item in items for row in item)
    ]
    run_many(connection, RELEASE, rows)
    return [None] * len(items)


def _retry_one(
    connection: Connection, cache: SubscriptionCache, delivery_id: str, now: float, *, only: str | None = None
) -> None | Exception:
    """`only`: refused unless it is in this state once it is locked."""
    of_it = select(DeliveryRow).where(col(DeliveryRow.id) == delivery_id)
    row = connection.execute(of_it).one_or_none()
    if row is None:
        return NotFound(f"there is no delivery {delivery_id}")
    subscription = cache.get(connection, row.subscription_id)  # it cannot be removed from here on
    # Lock the job before the delivery, as everything does that adds a delivery of it. If the delivery is leased, its
    # holder locks the delivery first and the job second, so the order is reversed.
    leased = row.lease_token is not None
    jobs = [] if row.job_uid is None else [row.job_uid]
    lock_jobs(connection, [] if leased else jobs)
    row = connection.execute(of_it.with_for_update()).one_or_none()
    lock_jobs(connection, jobs if leased else [])
    if row is None:
        return NotFound(f"there is no delivery {delivery_id}")
    if only is not None and row.state != only:
        return _not_uncertain(row)
    if row.state == "blocked":
        return Conflict(f"delivery {delivery_id} waits for an earlier event of its job", code="delivery_waits")
    if row.lease_token is not None and row.due_at > now:
        return Conflict(f"delivery {delivery_id} is being attempted", code="delivery_in_flight")
    if subscription is None:
        return Conflict(f"the subscription of delivery {delivery_id} was removed", code="subscription_removed")
    # Without `was`, stopping a replay no longer restores it.
    values: dict[str, Any] = {"due_at": at_once(now), "lease_token": None, "was": None}
    if row.state != "pending":
        state = "pending"
        if row.job_uid is not None and subscription.ordering == "job":
            state = queue_manual_retry(connection, row.id, row.job_uid, row.subscription_id, row.sequence)
        values |= {"state": state, "priority": 2, "attempt_count": 0, "ended_at": None, "reason": None}
        values["round"] = row.round + 1
    connection.execute(update(DeliveryRow).where(col(DeliveryRow.id) == delivery_id).values(**values))
    notify(connection, "deliveries")
    return None


_Settled = tuple[Row[Any], Resolution, float]


def _settle_one(
    connection: Connection, cache: SubscriptionCache, delivery_id: str, fate: Resolution, now: float
) -> _Settled | Exception:
    """Ends an uncertain delivery, or makes it pending. Returns its row, for what is remembered of it."""
    row = connection.execute(select(DeliveryRow).where(col(DeliveryRow.id) == delivery_id)).one_or_none()
    if row is None:
        return NotFound(f"there is no delivery {delivery_id}")
    problem: Exception | None
    if fate == "sent":
        problem = None if run(connection, SETTLE, id=delivery_id, now=now).rowcount else _not_uncertain(row)
    else:
        problem = _retry_one(connection, cache, delivery_id, now, only="uncertain")
    return (row, fate, now) if problem is None else problem


def _not_uncertain(row: Row[Any]) -> Conflict:
    state = "pending" if row.state == "blocked" else row.state
    return Conflict(f"delivery {row.id} is {state}: only an uncertain one is settled", code="delivery_not_uncertain")


def _place_of_memory(settled: _Settled) -> tuple[str, str]:
    return settled[0].subscription_id, settled[0].event_id


def _get(connection: Connection, delivery_id: str, owner: str | None) -> Delivery | None:
    row = connection.execute(SHOWN.where(col(DeliveryRow.id) == delivery_id)).one_or_none()
    if row is None or owner not in (None, row.owner):
        return None
    attempts = connection.execute(ATTEMPTS_OF_DELIVERY, {"delivery_id": delivery_id})
    waiting_for = None
    if row.state == "blocked":
        waiting_for = head_of(connection, row.job_uid, row.subscription_id, manual=row.priority == 2)
        waiting_for = None if waiting_for == delivery_id else waiting_for
    return delivery_from(row, waiting_for=waiting_for, attempts=tuple(attempt_from(attempt) for attempt in attempts))


def _skipped(connection: Connection, subscription_id: str | None, owner: str | None) -> Skipped:
    given = {"subscription_id": subscription_id, "owner": owner}
    values = {name: value for name, value in given.items() if value is not None}
    found = run(connection, skipped_statement(subscription_id, owner), **values).one()
    return Skipped(count=found.number, since=found.since)


def _uncertain(connection: Connection, owner: str | None) -> int:
    values = {} if owner is None else {"owner": owner}
    return int(run(connection, uncertain_statement(owner), **values).scalar_one())


def _pending(connection: Connection) -> Pending:
    ids: dict[str, list[str]] = {by: [] for by in HELD_BY}
    for row in run(connection, HELD_UP):
        ids[row.held_by].append(row.id)
    found = run(connection, PENDING, **{by: json_list(held) for by, held in ids.items()}).one()
    stopped = json_list([*ids["paused"], *ids["disabled"], *ids["pending"], *ids["pulled"]])
    oldest = run(connection, OLDEST_PENDING, ids=stopped).first()
    return Pending(
        count=int(found.total),
        held={by: int(getattr(found, by)) for by in HELD_BY},
        oldest_at=None if oldest is None else oldest.created_at,
    )
