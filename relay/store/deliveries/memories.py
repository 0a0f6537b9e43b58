"""Memories of subscriptions about their sinks: one row per subscription and key, used by one delivery at a time.

A delivery takes the turn before its first request. The turn ends in the transaction that records the attempt, or with
the delivery's lease if the node dies.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection, Row

from relay.core.deliveries.delivery import Claimed
from relay.core.deliveries.dialogue import Memory, group_key
from relay.core.deliveries.ledger import EVENT_KEY, SETTLED, event_key, not_sent
from relay.core.events.event import owner_of
from relay.core.jsontext import dumps
from relay.core.records import AttemptResult, MemoryTurn, Resolution
from relay.store.databases.database import Database
from relay.store.databases.group_commit import each, in_order_of, quick
from relay.store.databases.statements import REAL, SQLITE, TEXT, json_list, run, run_rows, sql
from relay.store.rows import loads
from relay.store.schema.tables import SinkMemoryRow

MAX_MEMORY_BYTES = 16_384

# Inserts a row with its turn taken, unless it exists. Locks the delivery: erasure waits for the row, and then finds it.
MAKE_MEMORY = sql(
    f"""
INSERT INTO {SinkMemoryRow.__tablename__} (subscription_id, key, data, token, held_until, updated_at)
SELECT CAST(:subscription_id AS text), CAST(:key AS text), '{{}}', CAST(:token AS text),
  CAST(:until AS double precision), CAST(:at AS double precision)
FROM deliveries AS d
WHERE d.id = :delivery_id $for_key_share(d)
ON CONFLICT (subscription_id, key) DO NOTHING
"""
)
# Takes the turn unless another delivery has it.
TAKE_MEMORY = """
UPDATE sink_memories SET token = :token, held_until = :until
WHERE subscription_id = :subscription_id AND key = :key AND (token IS NULL OR held_until <= :now)
RETURNING data
"""
# Writes a memory during a turn.
KEEP_MEMORY = """
UPDATE sink_memories SET data = :data, updated_at = :at
WHERE subscription_id = :subscription_id AND key = :key AND token = :token
"""
# Ends turns and writes their memories. Without data: keeps the previous memory.
END_TURNS = sql(
    """
UPDATE sink_memories SET data = COALESCE(m.data, sink_memories.data), token = NULL, held_until = NULL, updated_at = m.at
FROM $json_rows(rows) AS m
WHERE sink_memories.subscription_id = m.subscription_id AND sink_memories.key = m.key AND sink_memories.token = m.token
""",
    rows={"subscription_id": TEXT, "key": TEXT, "token": TEXT, "data": TEXT, "at": REAL},
)
# Ends all turns.
FREE_MEMORIES = "UPDATE sink_memories SET token = NULL, held_until = NULL WHERE token IS NOT NULL"
# Deletes a subscription's memories of its sink, except the records of written events. Those stay as long as the event:
# with another sink, or recreated under its old id, the subscription must not write an event again in silence.
FORGET_SUBSCRIPTION = f"""
DELETE FROM sink_memories WHERE subscription_id = :id AND substr(key, 1, {len(EVENT_KEY)}) <> '{EVENT_KEY}'
"""
# Locks the memories of all subscriptions under some keys, in the order in which turns end.
LOCK_KEYS = sql("SELECT key FROM sink_memories WHERE key IN $json_values(keys) $for_update(sink_memories)")
# Deletes the memories of all subscriptions under some keys.
FORGET_KEYS = sql("DELETE FROM sink_memories WHERE key IN $json_values(keys)")
# A subscription's memory under a key.
MEMORY = sql(
    "SELECT data FROM sink_memories WHERE subscription_id = :subscription_id AND key = :key $for_update(sink_memories)"
)
# Writes a memory without a turn.
WRITE_MEMORY = """
INSERT INTO sink_memories (subscription_id, key, data, updated_at) VALUES (:subscription_id, :key, :data, :at)
ON CONFLICT (subscription_id, key) DO UPDATE SET data = excluded.data, updated_at = excluded.updated_at
"""


class MemoryStore:
    """Takes turns, and writes memories during them. `end_turns` ends them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(
        self, claimed: Claimed, key: str, now: float, at: float, subscription_id: str | None = None
    ) -> MemoryTurn | None:
        """Takes the turn of a key for a delivery, until its lease ends. None if another delivery has it, or this one is
        deleted. `now`: time by the lease clock; `at`: time by the machine's clock; `subscription_id`: overrides the
        delivery's, for example with `SHARED`."""
        item = {
            "subscription_id": claimed.subscription_id if subscription_id is None else subscription_id,
            "key": key,
            "token": f"{claimed.lease_token}/{claimed.id}",
            "until": claimed.lease_until,
            "delivery_id": claimed.id,
        }
        return await self._database.write(_take, {**item, "now": now, "at": at})

    async def keep(self, turn: MemoryTurn, memory: Memory, at: float) -> bool:
        """Stores a memory during the turn. False if the turn is over, or the memory too large."""
        return await self._database.write(_keep, (turn, memory, at))

    async def free(self, turns: Sequence[MemoryTurn], at: float) -> None:
        """Ends turns in which nothing was sent."""
        if turns:
            await self._database.write(_free, [(one.subscription_id, one.key, one.token, None, at) for one in turns])


def end_turns(connection: Connection, results: Sequence[AttemptResult]) -> None:
    """Ends the turns of attempts and stores their memories, also after a lost lease: the sink has its writes."""
    rows = [
        (turn.subscription_id, turn.key, turn.token, _written(remember), result.now)
        for result in results
        if result.turn is not None
        for turn, remember in [(result.turn, result.remember), *[(one, result.share) for one in result.turn.shared]]
    ]
    run_rows(connection, END_TURNS, sorted(rows, key=lambda row: (row[0], row[1])))


def forget_groups(connection: Connection, groups: Iterable[Row[Any]]) -> None:
    """Deletes the memories of deleted groups. Call it last: these rows are locked after all others."""
    _forget(connection, [group_key(owner_of(row.source, row.account), row.name) for row in groups])


def forget_events(connection: Connection, ids: Iterable[str]) -> None:
    """Deletes the ledger entries of deleted events. Call it last, as `forget_groups`."""
    _forget(connection, [event_key(id) for id in ids])


def settle_event(connection: Connection, subscription_id: str, event_id: str, fate: Resolution, at: float) -> None:
    """Records a person's finding on whether a subscription has written an event. Call it last."""
    place = {"subscription_id": subscription_id, "key": event_key(event_id)}
    row = run(connection, MEMORY, **place).one_or_none()
    memory = {} if row is None else loads(row.data.encode())
    settled = {**memory, **SETTLED} if fate == "sent" else not_sent(memory)
    run(connection, WRITE_MEMORY, **place, data=dumps(dict(settled)).decode(), at=at)


def _forget(connection: Connection, keys: Sequence[str]) -> None:
    if keys:
        values = {"keys": json_list(sorted(keys))}
        if connection.dialect.name != SQLITE:
            run(connection, LOCK_KEYS, **values)
        run(connection, FORGET_KEYS, **values)


def _written(memory: Memory | None) -> str | None:
    """The memory as JSON. None, to keep the previous one, if it exceeds MAX_MEMORY_BYTES, as no kind of sink's does."""
    if memory is None:
        return None
    written = dumps(dict(memory)).decode()
    return written if len(written) <= MAX_MEMORY_BYTES else None


@quick
@in_order_of(lambda item: (item["subscription_id"], item["key"]))
def _take(connection: Connection, item: Mapping[str, Any]) -> MemoryTurn | None:
    turn = {name: item[name] for name in ("subscription_id", "key", "token")}
    made = run(connection, MAKE_MEMORY, **turn, until=item["until"], at=item["at"], delivery_id=item["delivery_id"])
    if made.rowcount:
        return MemoryTurn(**turn, memory={})
    row = run(connection, TAKE_MEMORY, **turn, until=item["until"], now=item["now"]).one_or_none()
    return None if row is None else MemoryTurn(**turn, memory=loads(row.data.encode()))


@quick
@each
def _keep(connection: Connection, item: tuple[MemoryTurn, Memory, float]) -> bool:
    turn, memory, at = item
    data = _written(memory)
    if data is None:
        return False
    place = {"subscription_id": turn.subscription_id, "key": turn.key, "token": turn.token}
    return run(connection, KEEP_MEMORY, **place, data=data, at=at).rowcount > 0


@quick
def _free(connection: Connection, items: Sequence[Sequence[tuple[Any, ...]]]) -> list[None]:
    rows = [row for item in items for row in item]
    run_rows(connection, END_TURNS, sorted(rows, key=lambda row: (row[0], row[1])))
    return [None] * len(items)
