"""Ordering within a job and subscription, when it changes by something other than a new event (`recording.py`) or the
end of a head (`attempt_results.py`): a manual retry takes its place in the order, or a subscription changes its
`ordering`.
"""

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from relay.core.deliveries.delivery import at_once
from relay.store.databases.notices import notify
from relay.store.databases.statements import json_list, run, sql
from relay.store.outbox.recording import lock_jobs
from relay.store.outbox.subscription_cache import SubscriptionCache
from relay.store.schema.tables import OPEN_DELIVERY

_MANUAL = f"job_uid = :job_uid AND subscription_id = :subscription_id AND {OPEN_DELIVERY} AND priority = 2"
# Blocks later manual deliveries of a job and subscription. The empty text: see `attempt_results`. A delivery that is
# claimed, or being claimed, goes first.
BLOCK_LATER_MANUAL = sql(
    f"""
UPDATE deliveries SET state = 'blocked' WHERE id IN (
  SELECT id FROM deliveries
  WHERE {_MANUAL} AND sequence > :sequence AND state || '' = 'pending' AND lease_token IS NULL $skip_locked
)
"""
)
# Counts manual deliveries of a job and subscription that go first.
AHEAD_MANUAL = f"""
SELECT COUNT(*) FROM deliveries WHERE {_MANUAL} AND id <> :id AND (sequence < :sequence OR state || '' = 'pending')
"""
# The next jobs with open deliveries of a subscription.
JOBS_OF_SUBSCRIPTION = f"""
SELECT DISTINCT job_uid FROM deliveries
WHERE {OPEN_DELIVERY} AND subscription_id || '' = :id AND job_uid > :after ORDER BY job_uid LIMIT :count
"""
_OF_JOBS = f"job_uid $among(job_uids) AND subscription_id || '' = :id AND {OPEN_DELIVERY}"
# Makes the blocked deliveries of some jobs pending. Those in a bundle that is being sent are left to its end.
UNBLOCK_ALL = sql(
    f"""
UPDATE deliveries SET state = 'pending', due_at = :due_at
WHERE {_OF_JOBS} AND state || '' = 'blocked' AND lease_token IS NULL
"""
)
# Blocks all but the first delivery of some jobs.
BLOCK_FOLLOWERS = sql(
    f"""
UPDATE deliveries SET state = 'blocked' WHERE id IN (
  SELECT id FROM deliveries AS d
  WHERE {_OF_JOBS} AND state || '' = 'pending' AND lease_token IS NULL
    AND (
      SELECT COUNT(*) FROM deliveries AS o
      WHERE o.job_uid = d.job_uid AND o.subscription_id = d.subscription_id AND o.{OPEN_DELIVERY}
        AND o.sequence < d.sequence AND (o.priority = 2) = (d.priority = 2)
    ) > 0
  $skip_locked
)
"""
)
JOB_CHUNK = 500


def queue_manual_retry(connection: Connection, id: str, job_uid: str, subscription_id: str, sequence: int) -> str:
    """Makes room for a delivery among the manual retries of its job and subscription. The job must be locked. Later
    ones become blocked unless they are leased. Returns its state: pending, or blocked behind an earlier one."""
    pair = {"job_uid": job_uid, "subscription_id": subscription_id, "sequence": sequence}
    run(connection, BLOCK_LATER_MANUAL, **pair)
    return "blocked" if run(connection, AHEAD_MANUAL, id=id, **pair).scalar_one() else "pending"


def jobs_of_subscription(connection: Connection, subscription_id: str, after: str) -> list[str]:
    """The uids of the next JOB_CHUNK jobs with an open delivery of a subscription."""
    found = run(connection, JOBS_OF_SUBSCRIPTION, id=subscription_id, after=after, count=JOB_CHUNK)
    return [row.job_uid for row in found]


def reorder(
    connection: Connection, cache: SubscriptionCache, subscription_id: str, uids: Sequence[str], now: float
) -> None:
    """Applies the subscription's current `ordering` to the open deliveries of these jobs. With `none` all become
    pending; with `job` all but the first, and those already leased, become blocked."""
    subscription = cache.get(connection, subscription_id)
    if subscription is None:
        return
    lock_jobs(connection, uids)
    if subscription.ordering == "none":
        run(connection, UNBLOCK_ALL, job_uids=json_list(uids), id=subscription_id, due_at=at_once(now))
        notify(connection, "deliveries")
    else:
        run(connection, BLOCK_FOLLOWERS, job_uids=json_list(uids), id=subscription_id)
