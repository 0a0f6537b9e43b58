"""One step of a replay: the next slice of events, and the deliveries it queues for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.deliveries.delivery import at_once
from relay.core.deliveries.replay import JOINS, SENDS
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import filters_of
from relay.core.subscriptions.subscription import Subscription
from relay.ids import new_id
from relay.store.databases.notices import notify
from relay.store.databases.statements import fetch, fetch_json, in_turns, json_list, run, run_many, run_rows
from relay.store.deliveries import replay_statements as sql
from relay.store.outbox.recording import lock_jobs, open_pairs
from relay.store.outbox.subscription_cache import SubscriptionCache

SLICE = 500
FILTERED_SLICE = 100
"""Smaller where filters read the body of each event, which delays other writes."""
SLICE_OF_ALL = 50
"""Smaller if a replay covers all subscriptions, because each event can then have many deliveries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedSlice:
    """How far a step came: the last position, the number of deliveries processed, and how many of them are open."""

    position: int
    passed: int
    queued: int


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
) -> QueuedSlice:
    """Queues the next slice. Its jobs are locked, so no delivery of them ends or begins meanwhile."""
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
    return QueuedSlice(position=position, passed=len(open_ids) + len(wanted), queued=queued)


def count_ended(connection: Connection, replay_id: str) -> list[str]:
    """The states of some ended deliveries that were not counted yet, and now are."""
    return [row.state for row in run(connection, sql.COUNT_ENDED, replay=replay_id).all()]


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
