"""Past events for a new subscription that starts before its creation: a slice of deliveries at a time.

Until the last slice the subscription matches no event by itself: the slices find new events as well, behind the past
ones, so the order within a job is kept and no event has two deliveries. Each slice is a transaction that no other one
which records events runs beside, so nothing turns up behind a position that was passed. A crash loses no slice: the
position is in the subscription's row, and upkeep continues there.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.engine import Connection
from sqlmodel import col

from relay.core.events.event import Event
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import filters_of, matches
from relay.core.subscriptions.subscription import Subscription
from relay.store.databases.pages import fitting, size_of
from relay.store.databases.statements import in_turns, run, run_many, table_of
from relay.store.deliveries.cancellation import revive
from relay.store.outbox.recording import INSERT_DELIVERY, delivery_values, lock_jobs, open_pairs
from relay.store.outbox.subscription_cache import FILLING
from relay.store.rows import event_from
from relay.store.schema.tables import EventRow

SLICE = 1_000
"""Events per transaction: about 60 ms."""
BODY_BYTES = size_of(table_of(EventRow).c.body)
MAX_FILLING = 100
# The first event since a time. `+ 0` keeps PostgreSQL from walking the positions from the oldest event on.
FIRST_POSITION = "SELECT MIN(position + 0) FROM events WHERE recorded_at >= :since"
# The last event.
LAST_POSITION = "SELECT MAX(position) FROM events"
# The subscriptions whose past events are not all queued.
UNFINISHED = f"""
SELECT id FROM subscriptions WHERE callback = 0 AND CAST(config AS text) LIKE '%"{FILLING}"%' ORDER BY id
LIMIT {MAX_FILLING}
"""

Filling = Mapping[str, int]
"""`position`: that of the last event that was passed; `past`: that of the last event before the subscription."""


def begin(connection: Connection, subscription: Subscription) -> Filling | None:
    """The begin of its past events; None if it has none."""
    if subscription.start_at is None:
        return None
    first = run(connection, FIRST_POSITION, since=subscription.start_at).scalar_one()
    if first is None:
        return None
    return {"position": int(first) - 1, "past": int(run(connection, LAST_POSITION).scalar_one())}


def advance(connection: Connection, subscription: Subscription, filling: Filling) -> Filling | None:
    """Queues the next slice. Returns where to continue; None at the end. The transaction holds the subscriptions."""
    # By its position a new event counts whatever its time, which a clock that was set back can make earlier.
    filters = filters_of(subscription.filters)
    since = or_(col(EventRow.recorded_at) >= subscription.start_at, col(EventRow.position) > filling["past"])
    following = (
        select(EventRow)
        .where(col(EventRow.position) > filling["position"], since)
        .order_by(col(EventRow.position))
        .limit(SLICE)
    )
    count = fitting(connection, following, BODY_BYTES, SLICE)
    # Locked, or retention could delete them meanwhile.
    rows = connection.execute(following.limit(count).with_for_update(read=True, key_share=True)).all()
    matching = [event for event in map(event_from, rows) if _is_for(subscription, event)]
    wanted = [
        event for event in in_turns(connection, matching) if filters is None or filters.passes(EventView(event.body))
    ]
    job_uids = sorted({event.order_key for event in wanted if event.order_key is not None})
    lock_jobs(connection, job_uids)  # the head of one may just be ending
    busy, now = open_pairs(connection, job_uids), subscription.created_at
    made = [delivery_values(event, subscription, busy, now=now) for event in wanted]
    run_many(connection, INSERT_DELIVERY, revive(connection, subscription.id, made))
    return {**filling, "position": rows[-1].position} if len(rows) == count else None


def _is_for(subscription: Subscription, event: Event) -> bool:
    of_job = event.job_uid is not None
    return matches(subscription, event.type, event.source, job_event=of_job, owner=event.owner)


def unfinished(connection: Connection) -> list[str]:
    """The ids of some subscriptions whose past events are not all queued."""
    return [row.id for row in run(connection, UNFINISHED)]


def filling_of(row: Any) -> Filling | None:
    """The progress of queueing a subscription's past events, from its row; None: all are queued."""
    found: Filling | None = row.config.get(FILLING)
    return found
