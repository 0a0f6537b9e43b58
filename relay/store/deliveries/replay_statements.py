"""SQL of replays: which events to send, their deliveries' outcomes, and how deliveries are queued.

Events are read by position in slices. No statement reads more than one slice, or more than one replay's open
deliveries.
"""

from relay.store.databases.statements import REAL, TEXT, Sql, insert_into, json_query, sql
from relay.store.schema.tables import OPEN_DELIVERY, DeliveryRow

ENDED = "state NOT IN ('pending', 'blocked')"
ENDED_AT_ONCE = 1_000
MAX_RUNNING = 100
MAX_RUNNING_OF_ACCOUNT = 10
"""Of those, how many one account's bound tokens may have: some to paused subscriptions never end."""


# COUNT instead of EXISTS, and a state in a form no index matches: without statistics PostgreSQL would hash all of a
# subscription's deliveries, or scan all dead ones, for every event or slice.


# True if the event `e` is in the replay's scope, whatever its deliveries' states.
_MATCHES = """
  e.recorded_at >= :since AND e.recorded_at < :until
  AND (:every_type = 1 OR e.type IN $json_values(types))
  AND (:job_events = 0 OR e.job_uid IS NOT NULL)
  AND (:source = '' OR e.source = :source)
  AND (:event_owner = '' OR e.owner = :event_owner)
  AND (:callback = 0 OR (
    SELECT COUNT(*) FROM job_callbacks c WHERE c.job_uid = e.job_uid AND c.subscription_id = :subscription_id
      AND (c.types IS NULL OR REPLACE(c.types, '"' || e.type || '"', '') <> c.types)
  ) > 0)"""


# Counted by time, which `since` and `until` refer to; sent by position, which is a job's sequence order whatever the
# clocks did.
_AFTER = "> (CAST(:after AS double precision), CAST(:position AS bigint))"
_IN_SLICE = f"""
  (e.recorded_at, e.position) {_AFTER}
  AND (e.recorded_at, e.position) <= (CAST(:upto AS double precision), CAST(:last AS bigint))"""
# The end of the next slice of a count.
END_OF_SLICE = f"""
SELECT recorded_at, position FROM events
WHERE (recorded_at, position) {_AFTER} AND recorded_at < :until
ORDER BY recorded_at, position LIMIT 1 OFFSET :count
"""


def _count(count: str) -> Sql:
    """The number of deliveries to send in a slice, and their first and last position."""
    return sql(
        f"""
WITH counted AS MATERIALIZED (
  SELECT e.position, {count} AS found FROM events e WHERE {_IN_SLICE} AND {_MATCHES}
)
SELECT COALESCE(SUM(found), 0) AS matched, MIN(CASE WHEN found > 0 THEN position END) AS first,
  MAX(CASE WHEN found > 0 THEN position END) AS last
FROM counted
"""
    )


_DELIVERED = """(
    SELECT COUNT(*) FROM deliveries d
    WHERE d.event_id = e.id AND d.subscription_id = :subscription_id AND d.state = 'delivered'
  )"""
# Counts events to send to one subscription.
COUNT_EVENTS = _count(f"CASE WHEN :again = 1 OR {_DELIVERED} = 0 THEN 1 ELSE 0 END")
# The events to send to one subscription, for its filters to choose from.
LIST_EVENTS = sql(
    f"""
SELECT e.recorded_at, e.position, e.body FROM events e
WHERE {_IN_SLICE} AND {_MATCHES} AND (:again = 1 OR {_DELIVERED} = 0)
"""
)
# The bodies of some events.
BODIES = sql("SELECT id, body FROM events WHERE id IN $json_values(ids)")
# Counts deliveries to send again, of one or all subscriptions.
COUNT_DELIVERIES = _count(
    """(
    SELECT COUNT(*) FROM deliveries d
    WHERE d.event_id = e.id AND CASE d.state WHEN 'blocked' THEN 'pending' ELSE d.state END = :state
      AND (:subscription_id = '' OR d.subscription_id = :subscription_id) AND (:reason = '' OR d.reason = :reason)
      AND (:owner = '' OR d.owner = :owner)
  )"""
)
# The next slice of events, and whether each is in scope; protects them from retention.
SLICE = json_query(
    f"""
SELECT e.position, e.id, COALESCE(e.job_uid, e.stream) AS job_uid, e.sequence,
  CASE WHEN {_MATCHES} THEN 1 ELSE 0 END AS wanted
FROM events e WHERE e.position > :position AND e.position <= :last
ORDER BY e.position LIMIT :count $for_key_share(e)
""",
    ("position", "id", "job_uid", "sequence", "wanted"),
)
_FOUND = ("id", "event_id", "subscription_id", "state", "reason")
_OF_ONE = "(:subscription_id = '' OR subscription_id = :subscription_id) AND (:owner = '' OR owner = :owner)"
# The deliveries of a slice's events.
DELIVERIES_OF = json_query(
    f"SELECT * FROM deliveries WHERE event_id IN $json_values(event_ids) AND {_OF_ONE}",
    _FOUND,
    # One index seek per event, whatever the statistics say.
    f"""
SELECT d.* FROM $json_values(event_ids) AS one (event_id) CROSS JOIN LATERAL (
  SELECT * FROM deliveries WHERE event_id = one.event_id AND {_OF_ONE} OFFSET 0
) AS d
""",
)
# Makes ended deliveries pending again, or blocked.
REOPEN = sql(
    f"""
UPDATE deliveries SET was = deliveries.state, state = m.state, priority = 2, due_at = m.due_at, lease_token = NULL,
  attempt_count = 0, ended_at = NULL, reason = NULL, replay = m.replay, round = round + 1
FROM $json_rows(rows) AS m
WHERE deliveries.id = m.id AND deliveries.{ENDED}
""",
    rows={"id": TEXT, "state": TEXT, "due_at": REAL, "replay": TEXT},
)
# Writes deliveries of events that had none for the subscription.
ADD = insert_into(
    DeliveryRow,
    *("id", "event_id", "subscription_id", "job_uid", "sequence", "state", "due_at", "created_at", "replay", "owner"),
    constants={"priority": "2", "attempt_count": "0", "made_count": "0", "was": "'cancelled'"},
)
# An open automatic delivery keeps its place and is counted; its retry becomes due now with a fresh schedule. A leased
# one is left alone: its holder will lock the job, which is locked here.
_WAITS = "state = 'pending' AND lease_token IS NULL AND priority < 2"
# Counts open deliveries towards the replay.
JOIN_OPEN = sql(
    f"""
UPDATE deliveries SET replay = :replay,
  attempt_count = CASE WHEN {_WAITS} THEN 0 ELSE attempt_count END,
  due_at = CASE WHEN {_WAITS} AND due_at > :due_at THEN :due_at ELSE due_at END
WHERE id IN (
  SELECT id FROM deliveries
  WHERE id IN $json_values(ids) AND replay IS NULL AND ended_at IS NULL $skip_locked
)
"""
)
# Counts a replay's deliveries by state.
PROGRESS = f"""
SELECT COUNT(*) AS total, COUNT(CASE WHEN state = 'delivered' THEN 1 END) AS delivered,
  COUNT(CASE WHEN state = 'dead' THEN 1 END) AS dead, COUNT(CASE WHEN {OPEN_DELIVERY} THEN 1 END) AS open,
  COUNT(CASE WHEN state = 'pending' AND attempt_count = 0 THEN 1 END) AS untried
FROM deliveries WHERE replay = :replay
"""
# Detaches some ended deliveries, which are then counted.
COUNT_ENDED = f"""
UPDATE deliveries SET replay = NULL, was = NULL
WHERE id IN (SELECT id FROM deliveries WHERE replay = :replay AND {ENDED} LIMIT {ENDED_AT_ONCE}) AND {ENDED}
RETURNING state
"""
# Takes or renews a replay's lease.
TAKE_LEASE = """
UPDATE replays SET holder = :holder, held_until = :until
WHERE id = :id AND state = 'running' AND (holder IS NULL OR holder = :holder OR held_until <= :now)
"""
# Adds to a replay's position and counts.
SAVE_PROGRESS = """
UPDATE replays SET position = :position, passed = passed + :passed, queued = queued + :queued,
  delivered = delivered + :delivered, dead = dead + :dead
WHERE id = :id
"""
# Ends a running replay.
END = "UPDATE replays SET state = :state, ended_at = :now, holder = NULL WHERE id = :id AND state = 'running'"
# Releases every running replay.
FREE_ALL = "UPDATE replays SET holder = NULL WHERE state = 'running'"
# The running replays that a node may advance.
RUNNING = f"""
SELECT r.id, r.position, r.last_position, r.subscription_id, s.state AS subscription_state
FROM replays r LEFT JOIN subscriptions s ON s.id = r.subscription_id
WHERE r.state = 'running' AND (r.holder IS NULL OR r.holder = :holder OR r.held_until <= :now)
ORDER BY r.id LIMIT {MAX_RUNNING}
"""
# The owners of running replays.
RUNNING_OWNERS = "SELECT COALESCE(owner, '') AS owner FROM replays WHERE state = 'running'"
# A stopped replay restores only deliveries it reopened or added (`was`) and has not sent. Those it joined continue
# without it, and those in flight end by themselves.
_RETURNED = "replay = :replay AND was IS NOT NULL AND ended_at IS NULL AND lease_token IS NULL"
# The jobs and subscriptions of a stopped replay's unsent deliveries.
PAIRS_TO_RETURN = f"SELECT DISTINCT job_uid, subscription_id FROM deliveries WHERE {_RETURNED} AND job_uid IS NOT NULL"
# Restores a stopped replay's unsent deliveries.
RETURN_UNSENT = f"""
UPDATE deliveries SET state = was, ended_at = :now,
  reason = CASE WHEN was = 'delivered' THEN NULL ELSE 'replay_stopped' END
WHERE {_RETURNED}
"""
# Detaches all deliveries of a replay.
DETACH = "UPDATE deliveries SET replay = NULL, was = NULL WHERE replay = :replay"
