"""The order within a job and subscription, where something else than a recorded event or the end of a head changes it:
a retry by hand takes its place among those before it, and a subscription gets another `ordering`.
"""

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from relay.store.notices import notify
from relay.store.outbox import SubscriptionBook, hold_jobs
from relay.store.statements import json_list, run, sql
from relay.store.tables import OPEN_DELIVERY

_BY_HAND = f"job_uid = :job_uid AND subscription_id = :subscription_id AND {OPEN_DELIVERY} AND priority = 2"
# The empty text: see `marks`. What is claimed, or is being claimed, goes first.
STEP_ASIDE = sql(
    lambda words: (
        f"""
UPDATE deliveries SET state = 'blocked' WHERE id IN (
  SELECT id FROM deliveries
  WHERE {_BY_HAND} AND sequence > :sequence AND state || '' = 'pending' AND lease_token IS NULL {words.skipping}
)
"""
    )
)
AHEAD_BY_HAND = f"""
SELECT COUNT(*) FROM deliveries WHERE {_BY_HAND} AND id <> :id AND (sequence < :sequence OR state || '' = 'pending')
"""
JOBS_OF_SUBSCRIPTION = f"""
SELECT DISTINCT job_uid FROM deliveries
WHERE {OPEN_DELIVERY} AND subscription_id || '' = :id AND job_uid > :after ORDER BY job_uid LIMIT :count
"""
_OF_JOBS = f"job_uid IN {{job_uids}} AND subscription_id = :id AND {OPEN_DELIVERY}"
LET_ALL_GO = sql(
    lambda words: (
        f"""
UPDATE deliveries SET state = 'pending', due_at = :now
WHERE {_OF_JOBS.format(job_uids=words.listed("job_uids"))} AND state || '' = 'blocked'
"""
    )
)
HOLD_BACK = sql(
    lambda words: (
        f"""
UPDATE deliveries SET state = 'blocked' WHERE id IN (
  SELECT id FROM deliveries AS d
  WHERE {_OF_JOBS.format(job_uids=words.listed("job_uids"))} AND state || '' = 'pending' AND lease_token IS NULL
    AND (
      SELECT COUNT(*) FROM deliveries AS o
      WHERE o.job_uid = d.job_uid AND o.subscription_id = d.subscription_id AND o.{OPEN_DELIVERY}
        AND o.sequence < d.sequence AND (o.priority = 2) = (d.priority = 2)
    ) > 0
  {words.skipping}
)
"""
    )
)
JOB_CHUNK = 500


def queue_by_hand(connection: Connection, id: str, job_uid: str, subscription_id: str, sequence: int) -> str:
    """Makes room for a delivery in the order of those that were asked for by hand, once its job is held: later ones
    wait for it unless they are on their way already. Returns its state: pending, or blocked behind another one."""
    pair = {"job_uid": job_uid, "subscription_id": subscription_id, "sequence": sequence}
    run(connection, STEP_ASIDE, **pair)
    return "blocked" if run(connection, AHEAD_BY_HAND, id=id, **pair).scalar_one() else "pending"


def jobs_of_subscription(connection: Connection, subscription_id: str, after: str) -> list[str]:
    """The next JOB_CHUNK jobs, by uid, that have an open delivery of a subscription."""
    found = run(connection, JOBS_OF_SUBSCRIPTION, id=subscription_id, after=after, count=JOB_CHUNK)
    return [row.job_uid for row in found]


def reorder(
    connection: Connection, book: SubscriptionBook, subscription_id: str, uids: Sequence[str], now: float
) -> None:
    """Has the open deliveries of these jobs follow the subscription's `ordering` as it is now: with `none` nothing
    waits for an earlier event; with `job` all but the first wait, and what is on its way already."""
    subscription = book.get(connection, subscription_id)
    if subscription is None:
        return
    hold_jobs(connection, uids)
    if subscription.ordering == "none":
        run(connection, LET_ALL_GO, job_uids=json_list(uids), id=subscription_id, now=now)
        notify(connection, "deliveries")
    else:
        run(connection, HOLD_BACK, job_uids=json_list(uids), id=subscription_id)
