"""One step of a replay: the next slice of events, and the deliveries of them that it puts on their way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.replay import JOINS, SENDS
from relay.core.subscription import Subscription
from relay.ids import new_id
from relay.store import replay_statements as sql
from relay.store.notices import notify
from relay.store.outbox import SubscriptionBook, hold_jobs, open_pairs
from relay.store.statements import at_once, gather, json_list, many, run

SLICE = 500
SLICE_OF_ALL = 50
"""Where the deliveries to all subscriptions are looked at, each event can have many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """How far a step came: the last place, how much it dealt with, and what of it is on its way."""

    position: int
    passed: int
    queued: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A delivery to be sent: one that is there (`id`, `state`), or one to be made."""

    event: Sequence[Any]
    subscription_id: str
    id: str | None = None
    state: str | None = None


def scope_of(replay: Any, subscription: Subscription | None) -> dict[str, Any]:
    """The parameters of what a replay is for; `subscription`: the one whose events they are, if any."""
    types = replay.types
    if types is None and subscription is not None:
        types = subscription.types
    return {
        "since": replay.since,
        "until": replay.until,
        "every_type": int(types is None),
        "types": json_list(list(types or ())),
        "job_events": int(types is None and subscription is not None),
        "source": (subscription.source if subscription is not None else None) or "",
        "callback": int(subscription is not None and subscription.callback),
        "subscription_id": replay.subscription_id or "",
    }


def feed(connection: Connection, replay: Any, scope: Mapping[str, Any], book: SubscriptionBook, now: float) -> Fed:
    """Puts the next slice on its way. Its jobs are held: nobody ends or begins a delivery of theirs meanwhile."""
    count = SLICE_OF_ALL if replay.subscription_id is None else SLICE
    place = {"position": replay.position, "last": replay.last_position, "count": count}
    events = sorted(gather(connection, sql.SLICE, **scope, **place))
    position = events[-1][0] if len(events) == count else replay.last_position
    wanted_events = {event[1]: event for event in events if event[4]}
    hold_jobs(connection, [event[2] for event in wanted_events.values() if event[2] is not None])
    there = gather(
        connection,
        sql.DELIVERIES_OF,
        event_ids=json_list(list(wanted_events)),
        subscription_id=replay.subscription_id or "",
    )
    open_ids, wanted = _sorted_out(replay, wanted_events, there, book)
    reopened, added = _values(connection, replay.id, wanted, book, now)
    queued = at_once(connection, sql.REOPEN, reopened) + len(added)
    many(connection, sql.ADD, added)
    if open_ids:
        ids = json_list(sorted(open_ids))
        queued += run(connection, sql.JOIN_OPEN, ids=ids, replay=replay.id, now=now).rowcount
    if queued:
        notify(connection, "deliveries")
    return Fed(position=position, passed=len(open_ids) + len(wanted), queued=queued)


def ended(connection: Connection, replay_id: str) -> list[str]:
    """The states of some deliveries that have ended and were not counted: they are from now on."""
    return [row.state for row in run(connection, sql.HARVEST, replay=replay_id).all()]


def _sorted_out(
    replay: Any, events: Mapping[str, Sequence[Any]], there: Sequence[Sequence[Any]], book: SubscriptionBook
) -> tuple[list[str], list[_Wanted]]:
    """The deliveries that are on their way already, and those to be sent, in the order of their events."""
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
    connection: Connection, replay_id: str, wanted: Sequence[_Wanted], book: SubscriptionBook, now: float
) -> tuple[list[tuple[Any, ...]], list[dict[str, Any]]]:
    """The rows to be changed and to be added: the first of a job and subscription that has none on its way that was
    asked for by hand is pending, the others wait for it."""
    busy = open_pairs(connection, sorted({one.event[2] for one in wanted if one.event[2] is not None}), by_hand=True)
    known = book.several(connection, {one.subscription_id for one in wanted})
    reopened: list[tuple[Any, ...]] = []
    added: list[dict[str, Any]] = []
    for one in wanted:
        subscription = known.get(one.subscription_id)
        if subscription is None:  # removed: there is nowhere to send it to
            continue
        _, event_id, job_uid, sequence, _ = one.event
        pair = (job_uid, one.subscription_id)
        ordered = job_uid is not None and subscription.ordering == "job"
        state = "blocked" if ordered and pair in busy else "pending"
        if ordered:
            busy.add(pair)
        if one.id is not None:
            reopened.append((one.id, state, now, replay_id))
            continue
        added.append(
            {
                **{"id": new_id("dlv", now), "event_id": event_id, "subscription_id": one.subscription_id},
                **{"job_uid": job_uid, "sequence": sequence, "state": state},
                **{"due_at": now, "created_at": now, "replay": replay_id},
            }
        )
    return reopened, added
