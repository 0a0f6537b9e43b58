"""Pulls: a program claims its deliveries, acknowledges them, or gives them back.

The same rows as those that the dispatcher sends, with the same order: heads and, behind each, its followers, under one
lease (`relay/core/deliveries/bundles.py`). The lease of a pull ends by its time only. Its end is recorded as an
attempt, and only then is the delivery claimed again. An acknowledgement needs no lease: it counts while nothing else
has ended the delivery.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, NamedTuple

from sqlalchemy.engine import Connection

from relay.core.deliveries.bundles import in_order, take
from relay.core.deliveries.delivery import Claimed, at_once
from relay.core.deliveries.pulls import LAG_COUNTED, LEASE_PREFIX, Lag, ended_tokens
from relay.core.events.event import Event
from relay.core.records import AttemptResult
from relay.core.subscriptions.subscription import PULL
from relay.store.databases.database import Database
from relay.store.databases.group_commit import MAX_GROUP_ITEMS, alone, each
from relay.store.databases.locks import MATCH, TransactionLock, incidents_of, locking
from relay.store.databases.notices import notify
from relay.store.databases.statements import SQLITE, fetch, fetch_json, json_list, run, sql
from relay.store.deliveries.attempt_results import AttemptRecorder
from relay.store.deliveries.bundles import due_heads, lease_all, open_by_job
from relay.store.deliveries.claims import ClaimRequest, is_pulled, leased_of, with_event
from relay.store.outbox.recording import Outbox, lock_jobs
from relay.store.schema.tables import OPEN_DELIVERY, OPEN_STATE

_ENDED = """
FROM deliveries d
WHERE d.lease_token >= :first AND d.lease_token < :last AND d.subscription_id || '' = :subscription_id
  AND d.due_at <= :taken_at
"""
# True if a lease of a subscription has ended and was not recorded.
ANY_ENDED = f"SELECT 1 {_ENDED} LIMIT 1"
# Some deliveries whose leases have ended, and their jobs.
SOME_ENDED = f"SELECT d.id, d.job_uid {_ENDED} ORDER BY d.lease_token LIMIT :count"
# Locks those of them whose leases still have ended.
LOCK_ENDED = sql(f"SELECT d.id {_ENDED} AND d.id IN $json_values(ids) $skip_locked")
# The jobs of some deliveries.
JOBS_OF = sql("SELECT DISTINCT job_uid FROM deliveries WHERE id IN $json_values(ids) AND job_uid IS NOT NULL")
# The subscriptions with leases of pulls that have ended.
WITH_ENDED = f"""
SELECT DISTINCT subscription_id FROM (
  SELECT d.subscription_id FROM deliveries d
  WHERE d.lease_token > '' AND {is_pulled("d")}
    AND d.due_at <= :taken_at
  LIMIT 100000
) AS found
"""
_LOCKED = (
    "SELECT d.id, d.subscription_id, d.state, d.lease_token, d.job_uid, d.sequence, d.priority, d.due_at "
    "FROM deliveries d WHERE d.id IN "
)
# Locks deliveries that are acknowledged.
LOCK_ACKED = sql(f"{_LOCKED} $json_values(ids) $for_update(d)")
_BEHIND = f"""
s.job_uid = n.job_uid AND s.subscription_id = n.subscription_id AND s.{OPEN_DELIVERY} AND s.sequence > n.sequence
  AND CASE WHEN s.lease_token IS NOT NULL THEN s.lease_token END = n.lease_token
"""
_OF_FOUND = f"{_LOCKED} (SELECT id FROM found) $for_update(d)"
# Locks deliveries that are given back, and those behind them in the same answer. MATERIALIZED: see `LOCK_HEADS`.
LOCK_NACKED = sql(
    f"""
WITH found AS MATERIALIZED (
  SELECT n.id FROM deliveries n WHERE n.id $among(ids)
  UNION SELECT s.id FROM deliveries n CROSS JOIN deliveries s WHERE n.id $among(ids) AND {_BEHIND}
)
{_OF_FOUND}
""",
    # one seek for each delivery that is given back, even if no delivery is believed open, or under a lease
    f"""
WITH found AS MATERIALIZED (
  SELECT n.id FROM deliveries n WHERE n.id $among(ids)
  UNION SELECT s.id FROM deliveries n CROSS JOIN LATERAL (SELECT s.id FROM deliveries s WHERE {_BEHIND} OFFSET 0) AS s
  WHERE n.id $among(ids)
)
{_OF_FOUND}
""",
)
# The open ones of some deliveries, with their events but without bodies.
OPEN_PULLED = with_event(f"d.id $among(ids) AND d.state {OPEN_STATE}", body="''")
# Gives deliveries back untried.
GIVE_BACK = sql("UPDATE deliveries SET lease_token = NULL, due_at = :due_at WHERE id IN $json_values(ids)")
# The lag of a subscription: its heads, and behind each what waits for it.
LAG = f"""
WITH pending AS MATERIALIZED (
  SELECT id, job_uid, created_at FROM deliveries
  WHERE state = 'pending' AND subscription_id = :subscription_id AND priority IN (0, 1, 2) LIMIT :count
), found AS MATERIALIZED (SELECT DISTINCT job_uid FROM pending WHERE job_uid IS NOT NULL)
SELECT COUNT(*) AS number, MIN(created_at) AS oldest_at FROM (
  SELECT created_at FROM (
    SELECT created_at FROM pending WHERE job_uid IS NULL
    UNION ALL
    SELECT d.created_at FROM found CROSS JOIN deliveries d
    WHERE d.job_uid = found.job_uid AND d.subscription_id = :subscription_id AND d.{OPEN_DELIVERY}
  ) AS every LIMIT :count
) AS counted
"""
# The subscriptions that programs pull from, the oldest first.
PULLED = f"SELECT id FROM subscriptions WHERE callback = 0 AND kind = '{PULL}' ORDER BY id LIMIT :count"
# The state of each of some subscriptions and, per priority, the due time of its first head. For programs that wait.
ARRIVALS = sql(
    "SELECT s.id, s.state, "
    + ", ".join(
        f"""(
  SELECT MIN(due_at) FROM deliveries WHERE state = 'pending' AND subscription_id = s.id AND priority = {priority}
) AS due_{priority}"""
        for priority in (0, 1, 2)
    )
    + " FROM subscriptions s WHERE s.id IN $json_values(ids)"
)

Judge = Callable[[Claimed], AttemptResult]
"""Makes the record of a delivery whose attempt has ended."""
Answer = Literal["done", "already", "unknown"]


class Arrival(NamedTuple):
    """The state of a subscription, and when its first pending delivery is due, or the lease on it ends."""

    state: str
    due_at: float | None


class Pulled(NamedTuple):
    """The deliveries that were claimed. `ended`: leases of others have ended, and that is to be recorded."""

    claimed: tuple[Claimed, ...]
    ended: bool


class Settled(NamedTuple):
    """The result for each id.

    returned  others that went back, since they come after one that did
    events    that were recorded
    """

    answers: Mapping[str, Answer]
    returned: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """End the attempts of these deliveries of one subscription. `judge`: None gives them back untried. `fails`: they
    were not processed, so only those under a lease count, and what is behind them goes back."""

    subscription_id: str
    ids: tuple[str, ...]
    judge: Judge | None
    fails: bool
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedLeases:
    """Record up to `count` deliveries of one subscription whose leases have ended by `taken_at`."""

    subscription_id: str
    judge: Judge
    now: float
    taken_at: float
    count: int


class PullStore:
    """Deliveries that programs pull. Every method names the subscription, which the caller may see."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._recorder = AttemptRecorder(outbox)

    async def claim(self, request: ClaimRequest) -> Pulled:
        """Claims due heads with their followers: first attempts, then retries, then manual ones, oldest first."""
        return await self._database.write(_claim, request)

    async def settle(self, settlement: Settlement) -> Settled:
        """Ends attempts in one transaction: their rows, the deliveries' new states, the followers' promotion and any
        events."""
        return await self._database.write(self._settle_failed if settlement.fails else self._settle, settlement)

    async def end_leases(self, ended: EndedLeases) -> tuple[int, tuple[Event, ...]]:
        """Records some leases that have ended. Returns how many, and the events that were recorded."""
        return await self._database.write(self._end_leases, ended)

    async def with_ended_leases(self, taken_at: float) -> list[str]:
        """The subscriptions with leases that have ended and were not recorded."""
        return await self._database.read(_with_ended, taken_at)

    async def lag(self, subscription_id: str, count: int = LAG_COUNTED) -> Lag:
        """The backlog that is not acknowledged yet. At most `count` are counted."""
        return await self._database.read(_lag, subscription_id, count)

    async def subscriptions(self, count: int) -> list[str]:
        """The ids of the oldest subscriptions that programs pull from."""
        return await self._database.read(_pulled, count)

    async def arrivals(self, subscription_ids: Sequence[str]) -> dict[str, Arrival]:
        """The arrivals that programs wait for, of those subscriptions that exist."""
        return await self._database.read(_arrivals, subscription_ids)

    # --- batches

    @alone(MAX_GROUP_ITEMS)
    def _settle(self, connection: Connection, items: Sequence[Settlement]) -> list[Settled]:
        return self._settled(connection, items)

    @alone(MAX_GROUP_ITEMS)
    @locking(lambda item: _locks_of(item.subscription_id))
    def _settle_failed(self, connection: Connection, items: Sequence[Settlement]) -> list[Settled]:
        return self._settled(connection, items)

    def _settled(self, connection: Connection, items: Sequence[Settlement]) -> list[Settled]:
        ids = json_list(sorted({id for item in items for id in item.ids}))
        if connection.dialect.name != SQLITE:
            # Before their deliveries: the end of one makes the next one pending, which another node may be ending.
            lock_jobs(connection, [row[0] for row in fetch(connection, JOBS_OF, ids=ids)])
        locked = fetch(connection, LOCK_NACKED if items[0].fails else LOCK_ACKED, ids=ids)
        rows = {row.id: row for row in (_Row(*one) for one in locked)}
        open_ids = json_list(sorted(row.id for row in rows.values() if row.is_open))
        claimed = {one.id: one for one in leased_of(fetch_json(connection, OPEN_PULLED, ids=open_ids))}
        ended: dict[str, AttemptResult | None] = {}
        answers: list[dict[str, Answer]] = []
        for item in items:
            answers.append({id: _answer(rows.get(id), item, taken=id in ended or id not in claimed) for id in item.ids})
            for id in (id for id, answer in answers[-1].items() if answer == "done"):
                ended[id] = None if item.judge is None else item.judge(claimed[id])
        results = [result for result in ended.values() if result is not None]
        if results:
            self._recorder.end(connection, results, pulled=True)
        returned = _behind(rows, ended) if items[0].fails else {}
        given_back = [*(id for id, result in ended.items() if result is None), *chain.from_iterable(returned.values())]
        if given_back:
            due_at = at_once(max(item.now for item in items))
            run(connection, GIVE_BACK, ids=json_list(sorted(given_back)), due_at=due_at)
        if ended:
            notify(connection, "pulls")
        return [
            Settled(
                answers=answer,
                returned=tuple(chain.from_iterable(returned.get(id, ()) for id in answer if answer[id] == "done")),
                events=tuple(
                    event
                    for id in answer
                    if answer[id] == "done" and (result := ended[id]) is not None
                    for event in result.events
                ),
            )
            for answer in answers
        ]

    @alone()
    @locking(lambda item: _locks_of(item.subscription_id))
    def _end_leases(self, connection: Connection, items: Sequence[EndedLeases]) -> list[tuple[int, tuple[Event, ...]]]:
        return [self._end(connection, item) for item in items]

    def _end(self, connection: Connection, item: EndedLeases) -> tuple[int, tuple[Event, ...]]:
        values = _ended_values(item.subscription_id, item.taken_at)
        found = run(connection, SOME_ENDED, **values, count=item.count).all()
        lock_jobs(connection, [row.job_uid for row in found if row.job_uid is not None])
        ids = [
            row[0] for row in fetch(connection, LOCK_ENDED, **values, ids=json_list(sorted(row.id for row in found)))
        ]
        if not ids:
            return 0, ()
        results = [
            item.judge(one) for one in leased_of(fetch_json(connection, OPEN_PULLED, ids=json_list(sorted(ids))))
        ]
        self._recorder.end(connection, results, pulled=True)
        notify(connection, "pulls")
        return len(ids), tuple(chain.from_iterable(result.events for result in results))


class _Row(NamedTuple):
    """A locked delivery."""

    id: str
    subscription_id: str
    state: str
    lease_token: str | None
    job_uid: str | None
    sequence: int | None
    priority: int
    due_at: float

    @property
    def is_open(self) -> bool:
        return self.state in ("pending", "blocked")

    @property
    def is_pulled(self) -> bool:
        return self.lease_token is not None and self.lease_token.startswith(LEASE_PREFIX)

    @property
    def line(self) -> tuple[str | None, str | None, bool]:
        """Its answer and, in it, its order."""
        return self.lease_token, self.job_uid, self.priority == 2


def _locks_of(subscription_id: str) -> list[TransactionLock]:
    """An attempt that fails may be the last one: its event is matched, and changes the incident of its sink."""
    return [MATCH, incidents_of(subscription_id)]


def _answer(row: _Row | None, item: Settlement, *, taken: bool) -> Answer:
    if row is None or row.subscription_id != item.subscription_id:
        return "unknown"
    return "already" if taken or (item.fails and not row.is_pulled) else "done"


def _behind(rows: Mapping[str, _Row], ended: Mapping[str, object]) -> dict[str, list[str]]:
    """The followers, in the same answer, of deliveries that go back: by the first of those that they follow."""
    first: dict[tuple[str | None, str | None, bool], _Row] = {}
    for row in sorted((rows[id] for id in ended), key=lambda row: row.sequence or 0):
        first.setdefault(row.line, row)
    found: dict[str, list[str]] = {}
    for row in sorted(rows.values(), key=lambda row: row.sequence or 0):
        head = first.get(row.line)
        follows = head is not None and row.job_uid is not None and (row.sequence or 0) > (head.sequence or 0)
        if head is not None and follows and row.state == "blocked" and row.id not in ended:
            found.setdefault(head.id, []).append(row.id)
    return found


@each
def _claim(connection: Connection, item: ClaimRequest) -> Pulled:
    assert item.bundle is not None
    ended = run(connection, ANY_ENDED, **_ended_values(item.subscription_id, item.taken_at)).first() is not None
    locks = connection.dialect.name != SQLITE
    ids: list[str] = []
    left = item.bundle
    for priorities in ((0, 1), (2,)):
        heads = [
            head
            for priority in priorities
            for head in due_heads(connection, item, priority, left.max_events, pulls=True, locks=locks)
        ]
        if not heads:
            continue
        of_jobs = open_by_job(connection, item, heads, left, manual=2 in priorities, locks=locks)
        taken = take(heads, of_jobs, left)
        ids += taken.ids
        if taken.full:
            break
        sizes = {one.id: one.size_bytes + 1 for one in (*heads, *chain.from_iterable(of_jobs.values()))}
        left = replace(
            left,
            max_events=left.max_events - len(taken.ids),
            max_bytes=left.max_bytes - sum(sizes[id] for id in taken.ids),
        )
        if left.max_bytes <= 0:
            break
    return Pulled(in_order(lease_all(connection, item.lease, ids)) if ids else (), ended)


def _ended_values(subscription_id: str, taken_at: float) -> dict[str, Any]:
    first, last = ended_tokens(subscription_id, taken_at)
    return {"first": first, "last": last, "subscription_id": subscription_id, "taken_at": taken_at}


def _with_ended(connection: Connection, taken_at: float) -> list[str]:
    return [row.subscription_id for row in run(connection, WITH_ENDED, taken_at=taken_at)]


def _lag(connection: Connection, subscription_id: str, count: int) -> Lag:
    row = run(connection, LAG, subscription_id=subscription_id, count=count).one()
    return Lag(count=int(row.number), oldest_at=row.oldest_at)


def _pulled(connection: Connection, count: int) -> list[str]:
    return [row.id for row in run(connection, PULLED, count=count)]


def _arrivals(connection: Connection, subscription_ids: Sequence[str]) -> dict[str, Arrival]:
    rows = fetch(connection, ARRIVALS, ids=json_list(subscription_ids))
    return {id: Arrival(state, min((at for at in due if at is not None), default=None)) for id, state, *due in rows}
