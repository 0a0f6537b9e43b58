"""Replays: events sent again, a bounded number at a time, in order within a job and behind new events.

Each step is one transaction: the deliveries it queues and its progress. A crash loses both or neither, and another node
continues when the lease expires.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.deliveries.replay import Replay, ReplayCount, ReplayRequest, ReplayStep
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import Filters, filters_of
from relay.core.subscriptions.subscription import Subscription
from relay.errors import Conflict, NotFound
from relay.store.databases.database import Database
from relay.store.databases.group_commit import alone, each
from relay.store.databases.locks import MATCH, locking
from relay.store.databases.statements import in_turns, run
from relay.store.deliveries import replay_statements as sql
from relay.store.deliveries.attempt_results import promote_manual
from relay.store.deliveries.counts import retried
from relay.store.deliveries.replay_steps import count_ended, queue_slice, scope_of
from relay.store.outbox.recording import Outbox, lock_jobs
from relay.store.outbox.subscription_cache import MATCHED_BY, matching_fields
from relay.store.schema.tables import ReplayRow, SubscriptionRow
from relay.store.scoped import Scoped

LEASE_SECONDS = 10.0
COUNT_SLICE = 5_000
FILTERED_COUNT_SLICE = 500
"""Fewer where filters look into each event. A slice ends earlier if they take long."""
DRY_SLICES = 40
"""Slices that a dry run counts at most: its answer should not take as long as that of a replay."""
MAX_UNTRIED = 1_000
MAX_OPEN = 4_000
"""Limits for one replay's open deliveries: untried ones, and all of them including those waiting for a retry."""


class ReplayStore(Scoped):
    """Reads and writes of replays."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._advance = each(self._step)

    async def create(self, request: ReplayRequest) -> Replay:
        """Counts the deliveries to send, slice by slice, and starts the replay. Raises NotFound for the
        subscription, and Conflict if too many replays are running."""
        request = replace(request, owner=self._owner)
        matched, first, last = 0, 0, 0
        async for count, low, high in self._slices(request):
            if count:
                matched, first, last = matched + count, min(first or low, low), max(last, high)
        values = {
            **{"id": request.id, "subscription_id": request.subscription_id, "since": request.since},
            **{"until": request.until, "types": None if request.types is None else list(request.types)},
            **{"which": request.only, "reason": request.reason, "created_at": request.now, "owner": request.owner},
            **{"state": "running" if matched else "done", "ended_at": None if matched else request.now},
            **{"position": first - 1 if matched else 0, "last_position": last, "matched": matched},
        }
        await self._database.write(_insert, values)
        made = await self.get(request.id)
        if made is None:
            raise _not_found(request.id)
        return made

    async def count(self, request: ReplayRequest) -> ReplayCount:
        """How many deliveries `create` would send: a dry run, which reads a bounded number of rows. Raises NotFound for
        the subscription."""
        request = replace(request, owner=self._owner)
        if not request.adds:
            return await self._database.read(retried, request)
        matched = slices = 0
        async for count, _, _ in self._slices(request):
            if slices == DRY_SLICES:
                return ReplayCount(matched=matched, complete=False)
            matched, slices = matched + count, slices + 1
        return ReplayCount(matched=matched, complete=True)

    async def _slices(self, request: ReplayRequest) -> AsyncIterator[tuple[int, int, int]]:
        """The deliveries to send, slice by slice: their number, and their first and last position."""
        scope, documents = await self._database.read(_scope, request)
        filters = filters_of(documents)
        after: _Place | None = (request.since, -1)
        while after is not None:
            if filters is None:
                found = await self._database.read(_count_slice, request, scope, after)
            else:
                found = await self._database.read(_count_filtered, request, scope, after, filters)
            after, count, low, high = found
            yield count, low, high

    async def get(self, replay_id: str) -> Replay | None:
        """One replay with its current progress."""
        return await self._database.read(_get, replay_id, self._owner)

    async def stop(self, replay_id: str, now: float) -> Replay:
        """Stops a replay and restores the deliveries it has not sent. One that has ended is unchanged. Raises
        NotFound."""
        if self._account is not None and await self.get(replay_id) is None:
            raise _not_found(replay_id)
        await self._database.write(_stop, (replay_id, now))
        found = await self.get(replay_id)
        if found is None:
            raise _not_found(replay_id)
        return found

    async def free_all(self) -> None:
        """Releases every replay. Only for a SQLite file at start-up."""
        await self._database.write(_free_all, None)

    async def due(self, holder: str, now: float) -> list[str]:
        """The running replays that no other node holds and that have something to do."""
        return await self._database.read(_due, holder, now)

    async def advance(self, replay_id: str, holder: str, now: float) -> ReplayStep:
        """One step of a replay, if `holder` may take it: counts ended deliveries and queues more."""
        return await self._database.write(self._advance, (replay_id, holder, now))

    @alone()
    @locking(lambda _: [MATCH])
    def _step(self, connection: Connection, item: tuple[str, str, float]) -> ReplayStep:
        replay_id, holder, now = item
        taken = {"id": replay_id, "holder": holder, "now": now, "until": now + LEASE_SECONDS}
        if not run(connection, sql.TAKE_LEASE, **taken).rowcount:
            return ReplayStep()
        row = connection.execute(select(ReplayRow).where(col(ReplayRow.id) == replay_id)).one()
        delivered, dead = _count_ended(connection, replay_id)
        counts = {"position": row.position, "passed": 0, "queued": 0, "delivered": delivered, "dead": dead}
        subscription = None
        if row.subscription_id is not None:
            subscription = self._outbox.subscriptions.get(connection, row.subscription_id)
            if subscription is None:
                run(connection, sql.SAVE_PROGRESS, id=replay_id, **counts)
                _end(connection, replay_id, "stopped", now)
                return ReplayStep(ended=True)
        progress = _progress(connection, replay_id)
        if _has_room(progress) and row.position < row.last_position and _sends(subscription):
            part = queue_slice(connection, row, subscription, self._outbox.subscriptions, now)
            counts |= {"position": part.position, "passed": part.passed, "queued": part.queued}
        run(connection, sql.SAVE_PROGRESS, id=replay_id, **counts)
        if counts["position"] >= row.last_position and progress.total + counts["queued"] == 0:
            _end(connection, replay_id, "done", now)
            return ReplayStep(ended=True)
        more = row.position < counts["position"] < row.last_position
        return ReplayStep(queued=counts["queued"], more=more)


def _scope(connection: Connection, request: ReplayRequest) -> tuple[dict[str, Any], Sequence[Mapping[str, Any]]]:
    """The parameters of the replay's statements, and the filters of its subscription."""
    if not request.adds or request.subscription_id is None:
        return scope_of(request, None), ()
    found = connection.execute(MATCHED_BY.where(col(SubscriptionRow.id) == request.subscription_id)).one_or_none()
    if found is None or request.owner not in (None, found.owner):
        detail = f"there is no subscription {request.subscription_id}"
        raise NotFound(detail, code="subscription_not_found")
    subscription = matching_fields(found)
    return scope_of(request, subscription), subscription.filters


_Place = tuple[float, int]
_Counted = tuple[_Place | None, int, int, int]
"""A slice's end (None: the range's end), its number of deliveries to send, and their first and last position."""


def _slice(
    connection: Connection, request: ReplayRequest, scope: dict[str, Any], after: _Place, count: int
) -> tuple[_Place | None, dict[str, Any]]:
    """The end of the next slice, and the parameters of a statement about it."""
    place = {"after": after[0], "position": after[1]}
    end = run(connection, sql.END_OF_SLICE, until=request.until, count=count - 1, **place).one_or_none()
    upto, last = (request.until, -1) if end is None else (end.recorded_at, end.position)
    return None if end is None else (upto, last), {**scope, **place, "upto": upto, "last": last}


def _count_filtered(
    connection: Connection,
    request: ReplayRequest,
    scope: dict[str, Any],
    after: _Place,
    filters: Filters,
) -> _Counted:
    end, within = _slice(connection, request, scope, after, FILTERED_COUNT_SLICE)
    rows = sorted(run(connection, sql.LIST_EVENTS, **within, again=int(request.only == "all")), key=lambda row: row[:2])
    found = [row.position for row in in_turns(connection, rows) if filters.passes(EventView(row.body))]
    return end, len(found), min(found, default=0), max(found, default=0)


def _count_slice(connection: Connection, request: ReplayRequest, scope: dict[str, Any], after: _Place) -> _Counted:
    end, within = _slice(connection, request, scope, after, COUNT_SLICE)
    if request.adds:
        counted = run(connection, sql.COUNT_EVENTS, **within, again=int(request.only == "all")).one()
    else:
        reason = request.reason or ""
        owner = request.owner or ""
        counted = run(connection, sql.COUNT_DELIVERIES, **within, state=request.only, reason=reason, owner=owner).one()
    return end, int(counted.matched), counted.first or 0, counted.last or 0


def _insert(connection: Connection, items: Sequence[dict[str, Any]]) -> Sequence[None | Exception]:
    running = [row.owner for row in run(connection, sql.RUNNING_OWNERS)]
    results: list[None | Exception] = []
    for values in items:
        owner = values["owner"] or ""
        if values["state"] == "running":
            own = bool(owner) and running.count(owner) >= sql.MAX_RUNNING_OF_ACCOUNT
            if own or len(running) >= sql.MAX_RUNNING:
                many = f"{sql.MAX_RUNNING_OF_ACCOUNT} replays of this account" if own else "too many replays"
                detail = f"{many} are running: wait for one of them, or stop it"
                results.append(Conflict(detail, code="too_many_replays"))
                continue
            running.append(owner)
        connection.execute(insert(ReplayRow), values)
        results.append(None)
    return results


def _get(connection: Connection, replay_id: str, owner: str | None) -> Replay | None:
    row = connection.execute(select(ReplayRow).where(col(ReplayRow.id) == replay_id)).one_or_none()
    if row is None or owner not in (None, row.owner):
        return None
    progress = _progress(connection, replay_id)
    ahead = max(0, row.matched - row.passed) if row.position < row.last_position or row.state == "stopped" else 0
    return Replay(
        id=row.id,
        subscription_id=row.subscription_id,
        state=row.state,
        since=row.since,
        until=row.until,
        types=None if row.types is None else tuple(row.types),
        only=row.which,
        reason=row.reason,
        matched=max(row.matched, row.queued),  # a delivery that was retried by hand meanwhile is sent too
        queued=row.queued,
        delivered=row.delivered + progress.delivered,
        dead=row.dead + progress.dead,
        left=0 if row.state == "done" else ahead + progress.open,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


@alone()
@each
def _stop(connection: Connection, item: tuple[str, float]) -> None:
    replay_id, now = item
    if not run(connection, sql.END, id=replay_id, state="stopped", now=now).rowcount:
        return
    row = connection.execute(select(ReplayRow).where(col(ReplayRow.id) == replay_id)).one()
    delivered, dead = _count_ended(connection, replay_id)
    pairs = [(pair.job_uid, pair.subscription_id) for pair in run(connection, sql.PAIRS_TO_RETURN, replay=replay_id)]
    lock_jobs(connection, [job_uid for job_uid, _ in pairs])
    returned = run(connection, sql.RETURN_UNSENT, replay=replay_id, now=now).rowcount
    promote_manual(connection, pairs, now)
    run(connection, sql.DETACH, replay=replay_id)
    counts = {"delivered": delivered, "dead": dead, "passed": -returned, "queued": -returned}
    run(connection, sql.SAVE_PROGRESS, id=replay_id, position=row.position, **counts)


@each
def _free_all(connection: Connection, _item: None) -> None:
    run(connection, sql.FREE_ALL)


def _due(connection: Connection, holder: str, now: float) -> list[str]:
    found = []
    for row in run(connection, sql.RUNNING, holder=holder, now=now).all():
        progress = _progress(connection, row.id)
        unsent = row.position < row.last_position
        sends = row.subscription_id is None or row.subscription_state == "enabled"
        gone = row.subscription_id is not None and row.subscription_state is None
        if (
            progress.open < progress.total
            or gone
            or (unsent and sends and _has_room(progress))
            or not (unsent or progress.total)
        ):
            found.append(row.id)
    return found


def _progress(connection: Connection, replay_id: str) -> Row[Any]:
    """A replay's open deliveries, and those that have ended but are not counted yet."""
    return run(connection, sql.PROGRESS, replay=replay_id).one()


def _has_room(progress: Row[Any]) -> bool:
    return bool(progress.untried < MAX_UNTRIED and progress.open < MAX_OPEN)


def _sends(subscription: Subscription | None) -> bool:
    return subscription is None or subscription.state == "enabled"


def _count_ended(connection: Connection, replay_id: str) -> tuple[int, int]:
    """Counts ended deliveries and detaches them. Returns the numbers delivered and dead."""
    delivered = dead = 0
    while True:
        states = count_ended(connection, replay_id)
        delivered, dead = delivered + states.count("delivered"), dead + states.count("dead")
        if len(states) < sql.ENDED_AT_ONCE:
            return delivered, dead


def _end(connection: Connection, replay_id: str, state: str, now: float) -> None:
    run(connection, sql.DETACH, replay=replay_id)
    run(connection, sql.END, id=replay_id, state=state, now=now)


def _not_found(replay_id: str) -> NotFound:
    return NotFound(f"there is no replay {replay_id[:200]!r}", code="replay_not_found")
