"""Streams: keep events without a job in order, as a job does for its own events.

A stream's row holds the place of its last event. It is locked while an event takes its place, and while the head of its
deliveries ends: see `lock_jobs` in `recording.py`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.engine import Connection

from relay.core.events.event import Event
from relay.store.databases.statements import INTEGER, REAL, TEXT, fetch, json_list, run_rows, sql

MAX_SEQUENCE = 2**31 - 1_000_000
"""The column's limit, less room for one transaction. Beyond it a stream restarts its numbering: after two billion
events, those open at that moment may be out of order."""
# Takes the next places of some streams, and locks the streams.
TAKE_PLACES = sql(
    f"""
INSERT INTO streams (uid, sequence, used_at)
SELECT m.uid, m.count, m.used_at FROM $json_rows(rows) AS m WHERE 1 = 1 ORDER BY m.uid
ON CONFLICT (uid) DO UPDATE SET used_at = excluded.used_at, sequence = excluded.sequence
  + CASE WHEN streams.sequence < {MAX_SEQUENCE} THEN streams.sequence ELSE 0 END
""",
    rows={"uid": TEXT, "count": INTEGER, "used_at": REAL},
)
# The last places of some streams.
PLACES = sql("SELECT uid, sequence FROM streams WHERE uid IN $json_values(uids)")


def placed(connection: Connection, events: Sequence[Event]) -> list[Event]:
    """The events with their places in their streams. Locks the streams."""
    counts = Counter(event.stream for event in events if event.stream is not None)
    if not counts:
        return list(events)
    used_at = {event.stream: event.recorded_at for event in events}
    run_rows(connection, TAKE_PLACES, [(uid, counts[uid], used_at[uid]) for uid in sorted(counts)])
    last: dict[str, int] = {row[0]: row[1] for row in fetch(connection, PLACES, uids=json_list(sorted(counts)))}
    taken: Counter[str] = Counter()
    found: list[Event] = []
    for event in events:
        stream = event.stream
        if stream is not None:
            taken[stream] += 1
            event = replace(event, sequence=last[stream] - counts[stream] + taken[stream])
        found.append(event)
    return found
