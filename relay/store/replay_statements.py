"""The statements of replays: which events there are to send, what became of them, and how they get on their way.

An event is found by its place, in slices of so many; nothing here reads more than a slice, or more than a replay has on
its way.
"""

from relay.store.outbox import DELIVERIES
from relay.store.statements import REAL, TEXT, Dialect, Sql, gathered, insert_into, sql
from relay.store.tables import OPEN_DELIVERY

ENDED = "state NOT IN ('pending', 'blocked')"
HARVEST_COUNT = 1_000
MAX_RUNNING = 100


# What is asked of each event is a COUNT, not an EXISTS, and a state that no index knows: without statistics PostgreSQL
# makes a hash of all that a subscription ever had, or goes through all that is dead, for each event or slice anew.


def _matches(words: Dialect) -> str:
    """Whether the event `e` is one of those that a replay is for, whatever has become of it."""
    return f"""
  e.recorded_at >= :since AND e.recorded_at < :until
  AND (:every_type = 1 OR e.type IN {words.listed("types")})
  AND (:job_events = 0 OR e.job_uid IS NOT NULL)
  AND (:source = '' OR e.source = :source)
  AND (:callback = 0 OR (
    SELECT COUNT(*) FROM job_callbacks c WHERE c.job_uid = e.job_uid AND c.subscription_id = :subscription_id
      AND (c.types IS NULL OR REPLACE(c.types, '"' || e.type || '"', '') <> c.types)
  ) > 0)"""


# Counted in the order of their time, which `since` and `until` are about; sent in the order of their places, which is
# that of a job's sequence whatever clocks did.
_AFTER = "> (CAST(:after AS double precision), CAST(:position AS bigint))"
_IN_SLICE = f"""
  (e.recorded_at, e.position) {_AFTER}
  AND (e.recorded_at, e.position) <= (CAST(:upto AS double precision), CAST(:last AS bigint))"""
END_OF_SLICE = f"""
SELECT recorded_at, position FROM events
WHERE (recorded_at, position) {_AFTER} AND recorded_at < :until
ORDER BY recorded_at, position LIMIT 1 OFFSET :count
"""


def _count(count: str) -> Sql:
    """How much of the events of a slice there is to send, and their first and last place."""
    return sql(
        lambda words: (
            f"""
WITH counted AS MATERIALIZED (
  SELECT e.position, {count} AS found FROM events e WHERE {_IN_SLICE} AND {_matches(words)}
)
SELECT COALESCE(SUM(found), 0) AS matched, MIN(CASE WHEN found > 0 THEN position END) AS first,
  MAX(CASE WHEN found > 0 THEN position END) AS last
FROM counted
"""
        )
    )


COUNT_EVENTS = _count(
    """CASE WHEN :again = 1 OR (
    SELECT COUNT(*) FROM deliveries d
    WHERE d.event_id = e.id AND d.subscription_id = :subscription_id AND d.state = 'delivered'
  ) = 0 THEN 1 ELSE 0 END"""
)
COUNT_DELIVERIES = _count(
    """(
    SELECT COUNT(*) FROM deliveries d
    WHERE d.event_id = e.id AND CASE d.state WHEN 'blocked' THEN 'pending' ELSE d.state END = :state
      AND (:subscription_id = '' OR d.subscription_id = :subscription_id) AND (:reason = '' OR d.reason = :reason)
  )"""
)
SLICE = gathered(
    lambda words: (
        f"""
SELECT e.position, e.id, e.job_uid, e.sequence, CASE WHEN {_matches(words)} THEN 1 ELSE 0 END AS wanted
FROM events e WHERE e.position > :position AND e.position <= :last
ORDER BY e.position LIMIT :count {words.kept("e")}
"""
    ),
    lambda words: ("position", "id", "job_uid", "sequence", "wanted"),
)
_FOUND = ("id", "event_id", "subscription_id", "state", "reason")
_OF_ONE = "(:subscription_id = '' OR subscription_id = :subscription_id)"
DELIVERIES_OF = Sql(
    sqlite=gathered(
        lambda words: f"SELECT * FROM deliveries WHERE event_id IN {words.listed('event_ids')} AND {_OF_ONE}",
        lambda _words: _FOUND,
    ).sqlite,
    # One look for each event, whatever is known of the table.
    postgresql=gathered(
        lambda words: (
            f"""
SELECT d.* FROM {words.listed("event_ids")} AS one (event_id) CROSS JOIN LATERAL (
  SELECT * FROM deliveries WHERE event_id = one.event_id AND {_OF_ONE} OFFSET 0
) AS d
"""
        ),
        lambda _words: _FOUND,
    ).postgresql,
)
REOPEN = sql(
    lambda words: (
        f"""
UPDATE deliveries SET was = deliveries.state, state = m.state, priority = 2, due_at = m.due_at, lease_token = NULL,
  attempt_count = 0, ended_at = NULL, reason = NULL, replay = m.replay
FROM {words.members("rows", id=TEXT, state=TEXT, due_at=REAL, replay=TEXT)} AS m
WHERE deliveries.id = m.id AND deliveries.{ENDED}
"""
    )
)
ADD = insert_into(
    DELIVERIES,
    *("id", "event_id", "subscription_id", "job_uid", "sequence", "state", "due_at", "created_at", "replay"),
    constants={"priority": "2", "attempt_count": "0", "made_count": "0", "was": "'cancelled'"},
)
# What is on its way by itself stays in its place and is counted; its retry comes now, with a fresh schedule. What
# somebody holds is let be: whoever ends it wants its job, which is held here.
_WAITS = "state = 'pending' AND lease_token IS NULL AND priority < 2"
JOIN_OPEN = sql(
    lambda words: (
        f"""
UPDATE deliveries SET replay = :replay,
  attempt_count = CASE WHEN {_WAITS} THEN 0 ELSE attempt_count END,
  due_at = CASE WHEN {_WAITS} AND due_at > :now THEN :now ELSE due_at END
WHERE id IN (
  SELECT id FROM deliveries
  WHERE id IN {words.listed("ids")} AND replay IS NULL AND ended_at IS NULL {words.skipping}
)
"""
    )
)
SURVEY = f"""
SELECT COUNT(*) AS total, COUNT(CASE WHEN state = 'delivered' THEN 1 END) AS delivered,
  COUNT(CASE WHEN state = 'dead' THEN 1 END) AS dead, COUNT(CASE WHEN {OPEN_DELIVERY} THEN 1 END) AS open,
  COUNT(CASE WHEN state = 'pending' AND attempt_count = 0 THEN 1 END) AS untried
FROM deliveries WHERE replay = :replay
"""
HARVEST = f"""
UPDATE deliveries SET replay = NULL, was = NULL
WHERE id IN (SELECT id FROM deliveries WHERE replay = :replay AND {ENDED} LIMIT {HARVEST_COUNT}) AND {ENDED}
RETURNING state
"""
HOLD = """
UPDATE replays SET holder = :holder, held_until = :until
WHERE id = :id AND state = 'running' AND (holder IS NULL OR holder = :holder OR held_until <= :now)
"""
KEEP = """
UPDATE replays SET position = :position, passed = passed + :passed, queued = queued + :queued,
  delivered = delivered + :delivered, dead = dead + :dead
WHERE id = :id
"""
END = "UPDATE replays SET state = :state, ended_at = :now, holder = NULL WHERE id = :id AND state = 'running'"
FREE_ALL = "UPDATE replays SET holder = NULL WHERE state = 'running'"
RUNNING = f"""
SELECT r.id, r.position, r.last_position, r.subscription_id, s.state AS subscription_state
FROM replays r LEFT JOIN subscriptions s ON s.id = r.subscription_id
WHERE r.state = 'running' AND (r.holder IS NULL OR r.holder = :holder OR r.held_until <= :now)
ORDER BY r.id LIMIT {MAX_RUNNING}
"""
RUNNING_COUNT = "SELECT COUNT(*) FROM replays WHERE state = 'running'"
# A stopped replay returns only what it reopened or added (`was`) and has not sent: what it joined goes on without it,
# and what is in flight ends by itself.
_RETURNED = "replay = :replay AND was IS NOT NULL AND ended_at IS NULL AND lease_token IS NULL"
PAIRS_TO_RETURN = f"SELECT DISTINCT job_uid, subscription_id FROM deliveries WHERE {_RETURNED} AND job_uid IS NOT NULL"
RETURN_UNSENT = f"""
UPDATE deliveries SET state = was, ended_at = :now,
  reason = CASE WHEN was = 'delivered' THEN NULL ELSE 'replay_stopped' END
WHERE {_RETURNED}
"""
LET_GO = "UPDATE deliveries SET replay = NULL, was = NULL WHERE replay = :replay"
