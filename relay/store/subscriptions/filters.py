"""Stored filters: their number for each owner, and those that this version cannot read.

The distinct comparisons of an owner's subscriptions are limited, because each is evaluated for every event that it may
apply to. They are counted in the transaction that changes subscriptions. It holds the lock CHANGE, so no other
transaction, on this node or another, adds comparisons meanwhile.

A subscription with unreadable filters is paused, and its events wait. Such filters pass every event, so none is lost
while they are unreadable. `resume` is refused until they are corrected. Then it first cancels waiting deliveries that
do not pass the corrected filters, slice by slice, and only then enables the subscription: a crash in between leaves it
paused, and the next `resume` starts over.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import select, text
from sqlalchemy.engine import Connection
from sqlmodel import col

from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import MAX_OWNER_COMPARISONS, UNREADABLE, filters_of, unreadable
from relay.core.subscriptions.subscription import Subscription
from relay.errors import Conflict
from relay.ids import least_id
from relay.store.databases.pages import unindexed
from relay.store.databases.statements import fetch, in_turns, json_list, run, sql, table_of
from relay.store.deliveries.attempt_results import promote_heads
from relay.store.outbox.recording import lock_jobs
from relay.store.schema.tables import OPEN_STATE, SubscriptionRow
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
        raise Conflict(f"{UNREADABLE}: {why}. Fix them, then resume the subscription", code="filters_unreadable")
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


_OWNER = unindexed(table_of(SubscriptionRow).c.owner)


class FilterRoom:
    """The comparisons of the owners that one transaction has read, by subscription."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keys: dict[str | None, dict[str, frozenset[str]]] = {}

    def change(self, owner: str | None, changes: Mapping[str, Subscription | None]) -> Conflict | None:
        """Replaces subscriptions of an owner; None: removes one. Returns an error, and changes nothing, if the number
        of comparisons would exceed both the limit and the current number."""
        changed = {id: _keys(one.filters) if one is not None else frozenset() for id, one in changes.items()}
        if owner not in self._keys and not any(changed.values()):
            return None
        before = self._of(owner)
        after = before | changed
        count = len(frozenset().union(*after.values()))
        if count > MAX_OWNER_COMPARISONS and count > len(frozenset().union(*before.values())):
            whose = "of the relay" if owner is None else f"of the account {owner}"
            many = f"the filters of all subscriptions {whose} would make {count:,} distinct comparisons"
            detail = f"{many}, and {MAX_OWNER_COMPARISONS:,} are allowed: use `in` for several values of one place"
            return Conflict(detail, code="too_many_comparisons")
        self._keys[owner] = after
        return None

    def _of(self, owner: str | None) -> dict[str, frozenset[str]]:
        found = self._keys.get(owner)
        if found is None:
            chosen = select(col(SubscriptionRow.id), col(SubscriptionRow.config)).where(
                text("callback = 0"), _OWNER.is_not_distinct_from(owner)
            )
            rows = self._connection.execute(chosen)
            found = self._keys[owner] = {row.id: _keys(row.config.get("filters") or ()) for row in rows}
        return found


def _keys(documents: Sequence[Mapping[str, object]]) -> frozenset[str]:
    filters = filters_of(documents)
    return frozenset() if filters is None else filters.keys
