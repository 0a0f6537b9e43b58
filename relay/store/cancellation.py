"""What a removed subscription still had to get is cancelled, head by head: its ended deliveries are never read."""

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from relay.store.outbox import hold_jobs
from relay.store.statements import SQLITE, json_list, run, sql
from relay.store.tables import OPEN_DELIVERY

HEADS_OF_SUBSCRIPTION = """
SELECT id, job_uid FROM deliveries WHERE state = 'pending' AND subscription_id = :id LIMIT :count
"""
HOLD_HEADS = sql(lambda words: f"SELECT id FROM deliveries d WHERE id IN {words.listed('ids')} {words.locked('d')}")
_CANCEL = """
UPDATE deliveries SET state = 'cancelled', lease_token = NULL, ended_at = :now, reason = 'subscription_removed'"""
CANCEL_HEADS = sql(lambda words: f"{_CANCEL} WHERE id IN {words.listed('ids')} AND {OPEN_DELIVERY}")
CANCEL_FOLLOWERS = sql(
    lambda words: (
        f"""{_CANCEL}
WHERE job_uid IN {words.listed("job_uids")} AND subscription_id = :id AND {OPEN_DELIVERY}
"""
    )
)
CANCEL_CHUNK = 500


def cancel_some(connection: Connection, items: Sequence[tuple[str, float]]) -> Sequence[int]:
    """A bounded part of the backlog of each subscription: how many heads there were (CANCEL_CHUNK: perhaps more)."""
    return [cancel(connection, subscription_id, now) for subscription_id, now in items]


def cancel(connection: Connection, subscription_id: str, now: float) -> int:
    """Cancels some heads of a subscription with their followers. Returns how many heads there were.

    As a mark does, it holds first the heads, then their jobs: a follower that is being recorded or promoted is seen.
    """
    heads = run(connection, HEADS_OF_SUBSCRIPTION, id=subscription_id, count=CANCEL_CHUNK).all()
    if heads:
        ids = json_list([row.id for row in heads])
        job_uids = sorted({row.job_uid for row in heads if row.job_uid is not None})
        if connection.dialect.name != SQLITE:
            run(connection, HOLD_HEADS, ids=ids)
        hold_jobs(connection, job_uids)
        run(connection, CANCEL_HEADS, ids=ids, now=now)
        run(connection, CANCEL_FOLLOWERS, job_uids=json_list(job_uids), id=subscription_id, now=now)
    return len(heads)
