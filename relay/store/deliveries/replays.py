"""Replays: events sent again, a bounded number at a time, in order within a job and behind new events.

Each step is one transaction: the deliveries it queues and its progress. A crash loses both or neither, and another node
continues when the lease expires.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import Select, insert, select
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.deliveries.delivery import at_once
from relay.core.deliveries.replay import JOINS, SENDS, Replay, ReplayCount, ReplayRequest, ReplayStep
from relay.core.records import Page
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import Filters, filters_of
from relay.core.subscriptions.subscription import Subscription
from relay.errors import Conflict, NotFound
from relay.ids import new_id
from relay.store.databases.database import Database, Scoped
from relay.store.databases.group_commit import alone, each
from relay.store.databases.locks import MATCH, locking
from relay.store.databases.notices import notify
from relay.store.databases.pages import decode_cursor, read_page
from relay.store.databases.statements import fetch, fetch_json, in_turns, json_list, run, run_many, run_rows
from relay.store.deliveries import replay_statements as sql
from relay.store.deliveries.attempt_results import promote_manual
from relay.store.deliveries.counts import retried
from relay.store.outbox.recording import Outbox, lock_jobs, open_pairs
from relay.store.outbox.subscription_cache import MATCHED_BY, SubscriptionCache, matching_fields
from relay.store.rows import made
from relay.store.schema.tables import ReplayRow, SubscriptionRow

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
        """Number of deliveries that `create` would send: a dry run, which reads a bounded number of rows. Raises
        NotFound for the subscription."""
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

    async def page(self, *, limit: int, cursor: str | None = None) -> Page[Replay]:
        """Newest first, each with its current progress."""
        statement = page_statement(limit, decode_cursor(cursor, prefix="rpl_"), self._owner)
        return await self._database.read(_page, statement, limit)

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
        sends = subscription is None or subscription.state == "enabled"
        if sends and _has_room(progress) and row.position < row.last_position:
            counts |= queue_slice(connection, row, subscription, self._outbox.subscriptions, now)
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
    return None if row is None or owner not in (None, row.owner) else _replay_from(connection, row)


def page_statement(limit: int, before: str | None, owner: str | None = None) -> Select[Any]:
    """One page of replays, newest first."""
    statement = select(ReplayRow).order_by(col(ReplayRow.id).desc()).limit(limit + 1)
    if before is not None:
        statement = statement.where(col(ReplayRow.id) < before)
    return statement if owner is None else statement.where(col(ReplayRow.owner) == owner)


def _page(connection: Connection, statement: Select[Any], limit: int) -> Page[Replay]:
    return read_page(connection, statement, limit, partial(_replay_from, connection), "id")


def _replay_from(connection: Connection, row: Row[Any]) -> Replay:
    progress = _progress(connection, row.id)
    ahead = max(0, row.matched - row.passed) if row.position < row.last_position or row.state == "stopped" else 0
    return made(
        Replay,
        row,
        types=None if row.types is None else tuple(row.types),
        only=row.which,
        matched=max(row.matched, row.queued),  # a delivery that was retried by hand meanwhile is sent too
        delivered=row.delivered + progress.delivered,
        dead=row.dead + progress.dead,
        left=0 if row.state == "done" else ahead + progress.open,
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


def _count_ended(connection: Connection, replay_id: str) -> tuple[int, int]:
    """Counts ended deliveries and detaches them. Returns the numbers delivered and dead."""
    delivered = dead = 0
    while True:
        states = [row.state for row in run(connection, sql.COUNT_ENDED, replay=replay_id).all()]
        delivered, dead = delivered + states.count("delivered"), dead + states.count("dead")
        if len(states) < sql.ENDED_AT_ONCE:
            return delivered, dead


def _end(connection: Connection, replay_id: str, state: str, now: float) -> None:
    run(connection, sql.DETACH, replay=replay_id)
    run(connection, sql.END, id=replay_id, state=state, now=now)


def _not_found(replay_id: str) -> NotFound:
    return NotFound(f"there is no replay {replay_id[:200]!r}", code="replay_not_found")


SLICE = 500
FILTERED_SLICE = 100
"""Smaller where filters read the body of each event, which delays other writes."""
SLICE_OF_ALL = 50
"""Smaller if a replay covers all subscriptions, because each event can then have many deliveries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A delivery to send: an existing one (`id`, `state`), or one to insert."""

    event: Sequence[Any]
    subscription_id: str
    id: str | None = None
    state: str | None = None


def scope_of(replay: Any, subscription: Subscription | None) -> dict[str, Any]:
    """The parameters of `_matches`. `subscription`: the one whose events are replayed, if any."""
    types = replay.types
    if types is None and subscription is not None:
        types = subscription.wanted_types
    return {
        "since": replay.since,
        "until": replay.until,
        "every_type": int(types is None),
        "types": json_list(list(types or ())),
        "job_events": int(types is None and subscription is not None),
        "source": (subscription.source if subscription is not None else None) or "",
        "event_owner": (replay.owner if subscription is None else subscription.owner) or "",
        "callback": int(subscription is not None and subscription.callback),
        "subscription_id": replay.subscription_id or "",
    }


def queue_slice(
    connection: Connection,
    replay: Any,
    subscription: Subscription | None,
    cache: SubscriptionCache,
    now: float,
) -> dict[str, int]:
    """Queues the next slice. Its jobs are locked, so no delivery of them ends or begins meanwhile. Returns the last
    position, the number of deliveries processed, and how many of them are open."""
    scope = scope_of(replay, subscription)
    adds = None in SENDS[replay.which]  # otherwise deliveries that exist are sent again
    filters = filters_of(subscription.filters) if adds and subscription is not None else None
    count = SLICE_OF_ALL if replay.subscription_id is None else SLICE if filters is None else FILTERED_SLICE
    place = {"position": replay.position, "last": replay.last_position, "count": count}
    events = sorted(fetch_json(connection, sql.SLICE, **scope, **place))
    position = events[-1][0] if len(events) == count else replay.last_position
    wanted_events = {event[1]: event for event in events if event[4]}
    if filters is not None and wanted_events:
        bodies = {row[0]: row[1] for row in fetch(connection, sql.BODIES, ids=json_list(list(wanted_events)))}
        every = in_turns(connection, wanted_events.items())
        wanted_events = {id: one for id, one in every if filters.passes(EventView(bodies[id]))}
    lock_jobs(connection, [event[2] for event in wanted_events.values() if event[2] is not None])
    there = fetch_json(
        connection,
        sql.DELIVERIES_OF,
        event_ids=json_list(list(wanted_events)),
        subscription_id=replay.subscription_id or "",
        owner=replay.owner or "",
    )
    open_ids, wanted = _sort_out(replay, wanted_events, there, cache)
    reopened, added = _values(connection, replay.id, wanted, cache, now)
    queued = run_rows(connection, sql.REOPEN, reopened) + len(added)
    run_many(connection, sql.ADD, added)
    if open_ids:
        ids = json_list(sorted(open_ids))
        queued += run(connection, sql.JOIN_OPEN, ids=ids, replay=replay.id, due_at=at_once(now)).rowcount
    if queued:
        notify(connection, "deliveries")
    return {"position": position, "passed": len(open_ids) + len(wanted), "queued": queued}


def _sort_out(
    replay: Any, events: Mapping[str, Sequence[Any]], there: Sequence[Sequence[Any]], cache: SubscriptionCache
) -> tuple[list[str], list[_Wanted]]:
    """The deliveries that are open already, and those to send, in event order."""
    sends = SENDS[replay.which]
    adds = None in sends
    open_ids: list[str] = []
    wanted: list[_Wanted] = []
    missing = set(events)
    for delivery_id, event_id, subscription_id, state, reason in there:
        missing.discard(event_id)
        if state in ("pending", "blocked"):
            if replay.which in JOINS and replay.reason in (None, reason):
                open_ids.append(delivery_id)
        elif state in sends and replay.reason in (None, reason):
            event = events[event_id]
            wanted.append(_Wanted(event=event, subscription_id=subscription_id, id=delivery_id, state=state))
    if adds:
        wanted += [_Wanted(event=events[one], subscription_id=replay.subscription_id) for one in missing]
    return open_ids, sorted(wanted, key=lambda one: (one.event[0], one.subscription_id))


def _values(
    connection: Connection, replay_id: str, wanted: Sequence[_Wanted], cache: SubscriptionCache, now: float
) -> tuple[list[tuple[Any, ...]], list[dict[str, Any]]]:
    """The rows to change and to insert. The first of a (job, subscription) without an open manual delivery is
    pending, the others are blocked."""
    busy = open_pairs(connection, sorted({one.event[2] for one in wanted if one.event[2] is not None}), manual=True)
    known = cache.several(connection, {one.subscription_id for one in wanted})
    reopened: list[tuple[Any, ...]] = []
    added: list[dict[str, Any]] = []
    for one in wanted:
        subscription = known.get(one.subscription_id)
        if subscription is None:  # removed: there is no sink
            continue
        _, event_id, job_uid, sequence, _ = one.event
        pair = (job_uid, one.subscription_id)
        ordered = job_uid is not None and subscription.ordering == "job"
        state = "blocked" if ordered and pair in busy else "pending"
        if ordered:
            busy.add(pair)
        if one.id is not None:
            reopened.append((one.id, state, at_once(now), replay_id))
            continue
        added.append(
            {
                **{"id": new_id("dlv", now), "event_id": event_id, "subscription_id": one.subscription_id},
                **{"job_uid": job_uid, "sequence": sequence, "state": state},
                **{"due_at": at_once(now), "created_at": now, "replay": replay_id, "owner": subscription.owner},
            }
        )
    return reopened, added
