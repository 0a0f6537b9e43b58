"""Pauses subscriptions whose stored filters this version cannot read: their events wait.

Such filters pass every event, so none is lost while they are unreadable. `resume` is refused until they are corrected.
Then it first cancels waiting deliveries that do not pass the corrected filters, slice by slice, and only then enables
the subscription: a crash in between leaves it paused, and the next `resume` starts over.
"""

from sqlalchemy.engine import Connection

from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import UNREADABLE, filters_of, unreadable
from relay.core.subscriptions.subscription import Subscription
from relay.errors import Conflict
from relay.ids import least_id
from relay.store.databases.statements import fetch, in_turns, json_list, run, sql
from relay.store.deliveries.attempt_results import promote_heads
from relay.store.outbox.recording import lock_jobs
from relay.store.schema.tables import OPEN_STATE
from relay.store.subscriptions.rows import locked

FILTERED = "filtered"
"""Reason of a cancelled delivery: it waited, and does not pass the corrected filters."""
SKEW_SECONDS = 600.0
"""Tolerance for clock differences between nodes: a waiting delivery may seem created this long before the pause."""
SLICE = 200
# Pauses a subscription, whatever its state.
HOLD = """
UPDATE subscriptions SET state = 'paused', state_since = :now, state_reason = :reason, probe_at = NULL,
  handshake_at = NULL
WHERE id = :id
"""
# The next deliveries of a subscription, by id. Few have ended: a paused subscription sends nothing.
NEXT_OF_SUBSCRIPTION = """
SELECT id, event_id, job_uid FROM deliveries WHERE subscription_id = :id AND id > :after ORDER BY id LIMIT :count
"""
# The bodies of some events.
BODIES = sql("SELECT id, body FROM events WHERE id IN $json_values(ids)")
# Locks deliveries. Call it before locking their jobs.
LOCK = sql("SELECT id FROM deliveries d WHERE id IN $json_values(ids) $for_update(d)")
# Cancels waiting deliveries: never tried, not leased, not retried by hand.
CANCEL = sql(
    f"""
UPDATE deliveries SET state = 'cancelled', ended_at = :now, reason = '{FILTERED}'
WHERE id IN $json_values(ids) AND state {OPEN_STATE} AND priority < 2 AND attempt_count = 0 AND lease_token IS NULL
"""
)


def is_held(subscription: Subscription) -> bool:
    """True if a subscription is paused because its filters could not be read."""
    return subscription.state == "paused" and (subscription.state_reason or "").startswith(UNREADABLE)


def hold(connection: Connection, subscription_id: str, now: float) -> str | None:
    """Pauses a subscription whose filters cannot be read. Returns the reason; None if they are readable again."""
    row = locked(connection, subscription_id)
    why = None if row is None else unreadable(row.config.get("filters") or ())
    if why is not None:
        run(connection, HOLD, id=subscription_id, now=now, reason=f"{UNREADABLE}: {why}")
    return why


def begin_of(subscription: Subscription) -> str | None:
    """The id from which deliveries are filtered before a subscription is enabled; None if none are. Raises Conflict if
    its filters cannot be read."""
    why = unreadable(subscription.filters)
    if why is not None:
        raise Conflict(f"{UNREADABLE}: {why}. Correct them, then resume it", code="filters_unreadable")
    if not is_held(subscription):
        return None
    return least_id("dlv", (subscription.state_since or 0.0) - SKEW_SECONDS)


def filter_waiting(connection: Connection, item: tuple[Subscription, str, float]) -> str | None:
    """Cancels waiting deliveries of the next slice that do not pass the filters. Returns the slice's last id; None at
    the end."""
    subscription, after, now = item
    filters = filters_of(subscription.filters)
    rows = run(connection, NEXT_OF_SUBSCRIPTION, id=subscription.id, after=after, count=SLICE).all()
    if filters is None or not rows:
        return None
    wanted = json_list(sorted({row.event_id for row in rows}))
    bodies = {row[0]: row[1] for row in fetch(connection, BODIES, ids=wanted)}
    known = [row for row in rows if row.event_id in bodies]
    false = [row for row in in_turns(connection, known) if not filters.passes(EventView(bodies[row.event_id]))]
    if false:
        ids = json_list([row.id for row in false])
        job_uids = sorted({row.job_uid for row in false if row.job_uid is not None})
        run(connection, LOCK, ids=ids)
        lock_jobs(connection, job_uids)
        run(connection, CANCEL, ids=ids, now=now)
        promote_heads(connection, [(job_uid, subscription.id) for job_uid in job_uids], [], now)
    last: str = rows[-1].id
    return last if len(rows) == SLICE else None
