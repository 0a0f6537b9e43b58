"""Cancels the open deliveries of a removed subscription, head by head; its ended deliveries are not read. If it is
declared again and starts before they were made, they are revived.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.deliveries.delivery import AT_ONCE_SECONDS
from relay.store.databases.group_commit import alone, each
from relay.store.databases.statements import REAL, SQLITE, TEXT, fetch, json_list, run, run_rows, sql
from relay.store.deliveries.attempt_results import promote_heads
from relay.store.outbox.recording import lock_jobs
from relay.store.schema.tables import OPEN_DELIVERY, OPEN_STATE

# A subscription that was declared again, under its old id, keeps what it has got since.
_OLD = "(created_at <= :now OR NOT EXISTS (SELECT 1 FROM subscriptions AS again WHERE again.id = :id))"
# Some heads of a subscription.
HEADS_OF_SUBSCRIPTION = f"""
SELECT id, job_uid FROM deliveries WHERE state = 'pending' AND subscription_id = :id AND {_OLD} LIMIT :count
"""
# Locks heads and their open followers, before their jobs: a follower can have become a head since. MATERIALIZED:
# otherwise PostgreSQL may read them again for each row, if its statistics say that the table is empty.
LOCK_HEADS = sql(
    f"""
WITH found AS MATERIALIZED (
  SELECT id FROM deliveries
  WHERE job_uid $among(job_uids) AND subscription_id || '' = :id AND {OPEN_DELIVERY}
  UNION SELECT id FROM deliveries WHERE id IN $json_values(ids)
)
SELECT id FROM deliveries d WHERE id IN (SELECT id FROM found) $for_update(d)
"""
)
_CANCEL = """
UPDATE deliveries SET state = 'cancelled', lease_token = NULL, ended_at = :now, reason = 'subscription_removed'"""
# Cancels heads that are still open.
CANCEL_HEADS = sql(f"{_CANCEL} WHERE id $among(ids) AND state {OPEN_STATE}")
# Cancels the open followers of these jobs for a subscription.
CANCEL_FOLLOWERS = sql(
    f"""{_CANCEL}
WHERE job_uid $among(job_uids) AND subscription_id || '' = :id AND {OPEN_DELIVERY} AND {_OLD}
"""
)
CANCEL_CHUNK = 500
# The deliveries of some events that a removed subscription of the same id has left. `|| ''` keeps PostgreSQL from
# reading all deliveries of the subscription.
LEFT = sql(
    "SELECT event_id, id, state FROM deliveries WHERE event_id IN $json_values(ids) AND subscription_id || '' = :id"
)
# Makes deliveries that have ended first attempts.
REVIVE = sql(
    f"""
UPDATE deliveries SET state = m.state, priority = 0, due_at = m.now - {AT_ONCE_SECONDS}, created_at = m.now,
  attempt_count = 0, alone = 0, ended_at = NULL, reason = NULL, was = NULL, round = round + 1
FROM $json_rows(rows) AS m
WHERE deliveries.id = m.id
""",
    rows={"id": TEXT, "state": TEXT, "now": REAL},
)
# Takes deliveries from the removed subscription before they are cancelled.
TAKE_OVER = sql("UPDATE deliveries SET created_at = :now WHERE id IN $json_values(ids)")


def cancel(connection: Connection, subscription_id: str, now: float) -> int:
    """Cancels some heads of a subscription that was removed by `now`, with their followers. Returns the number of
    heads.

    Locks first the deliveries, then their jobs, as the end of an attempt does, so that followers being recorded or
    promoted are seen.
    """
    heads = run(connection, HEADS_OF_SUBSCRIPTION, id=subscription_id, now=now, count=CANCEL_CHUNK).all()
    if heads:
        ids = json_list([row.id for row in heads])
        job_uids = sorted({row.job_uid for row in heads if row.job_uid is not None})
        if connection.dialect.name != SQLITE:
            run(connection, LOCK_HEADS, ids=ids, job_uids=json_list(job_uids), id=subscription_id)
        lock_jobs(connection, job_uids)
        run(connection, CANCEL_HEADS, ids=ids, now=now)
        run(connection, CANCEL_FOLLOWERS, job_uids=json_list(job_uids), id=subscription_id, now=now)
        pairs = [(job_uid, subscription_id) for job_uid in job_uids]
        promote_heads(connection, pairs, pairs, now)  # of a subscription that was declared again
    return len(heads)


def revive(connection: Connection, subscription_id: str, made: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of these new deliveries of a subscription those to insert. The others are there, from a removed one of the same
    id: what it did not deliver is open again."""
    ids = json_list([one["event_id"] for one in made])
    left = {event_id: (id, state) for event_id, id, state in fetch(connection, LEFT, ids=ids, id=subscription_id)}
    open_ids, ended = [], []
    for one in made if left else ():
        id, state = left.get(one["event_id"], (None, "delivered"))
        if state in ("pending", "blocked"):
            open_ids.append(id)
        elif state != "delivered":
            ended.append((id, one["state"], one["created_at"]))
    if open_ids:
        run(connection, TAKE_OVER, ids=json_list(open_ids), now=made[0]["created_at"])
    run_rows(connection, REVIVE, ended)
    return [one for one in made if one["event_id"] not in left]


@alone()
@each
def cancel_some(connection: Connection, item: tuple[str, float]) -> int:
    """Cancels a bounded part of a subscription's backlog. Returns the number of heads; CANCEL_CHUNK means there may be
    more."""
    return cancel(connection, *item)
