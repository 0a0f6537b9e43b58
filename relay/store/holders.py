"""Who holds leases, and which of them have died: what a dead node held is free at once.

PostgreSQL only. A node's name can be bound to its connection that listens: that holds an advisory lock of the name for
as long as it lives, and the server lets go of the lock when the connection ends, however it does. Such a name says
which start of the server it belongs to, since locks do not outlive that: after a restart or a failover a lock that is
free proves nothing, and leases have to run out. A name is used only once it is bound, and never bound again, so a node
that was found dead stays dead.
"""

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from relay.store.database import Database
from relay.store.notices import notify
from relay.store.statements import json_list, run, sql

BINDING = "@"
"""Before the server's start in a name that is bound."""
SERVER_START = "CAST(CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000 AS bigint) AS text)"
BIND = f"""
SELECT name FROM (SELECT $1 || '{BINDING}' || {SERVER_START} AS name) AS bound
WHERE pg_try_advisory_lock(hashtextextended(name, 0))
"""
"""For the driver: the bound name, locked by this connection."""
_IS_BOUND = f"name LIKE '%{BINDING}' || {SERVER_START}"
# Goes over all that is leased.
BOUND = f"""
WITH held AS MATERIALIZED (
  SELECT DISTINCT split_part(lease_token, '.', 1) AS name FROM deliveries WHERE lease_token IS NOT NULL
  UNION SELECT holder FROM accounts WHERE holder IS NOT NULL
  UNION SELECT holder FROM replays WHERE holder IS NOT NULL AND state = 'running'
)
SELECT name FROM held WHERE {_IS_BOUND}
"""
# A lock that can be had shared is held by nobody; it is given back at the end of the transaction.
DEAD = sql(
    lambda words: (
        f"""
WITH held AS MATERIALIZED (SELECT * FROM {words.listed("names")} AS listed (name))
SELECT name FROM held WHERE CASE
  WHEN {_IS_BOUND} THEN pg_try_advisory_xact_lock_shared(hashtextextended(name, 0)) ELSE false
END
"""
    )
)
# What a transaction of the dead node still holds is found the next time.
RELEASE_DELIVERIES = sql(
    lambda words: (
        f"""
UPDATE deliveries SET lease_token = NULL, due_at = :now WHERE id IN (
  SELECT id FROM deliveries
  WHERE lease_token IS NOT NULL AND split_part(lease_token, '.', 1) IN {words.listed("names")} {words.skipping}
)
"""
    )
)
RELEASE_ACCOUNTS = sql(
    lambda words: f"UPDATE accounts SET holder = NULL, held_until = NULL WHERE holder IN {words.listed('names')}"
)
RELEASE_REPLAYS = sql(
    lambda words: f"UPDATE replays SET holder = NULL, held_until = NULL WHERE holder IN {words.listed('names')}"
)


class HolderStore:
    """What is known of the nodes by the leases that they hold."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def bound(self) -> list[str]:
        """The bound names that hold something, whether their nodes live or not."""
        return await self._database.read(_bound)

    async def dead(self, names: Sequence[str]) -> list[str]:
        """Those of these names whose node has died for certain."""
        return await self._database.read(_dead, names) if names else []

    async def let_go(self, names: Sequence[str]) -> None:
        """Gives up the accounts and the replays that these names hold: other nodes may take them at once."""
        await self._database.write(_let_go, tuple(names))

    async def release(self, names: Sequence[str], now: float) -> int:
        """Frees all that these names hold, deliveries too. Returns how many deliveries there were."""
        return await self._database.write(_release, (tuple(names), now))


def _bound(connection: Connection) -> list[str]:
    return [row.name for row in run(connection, BOUND)]


def _dead(connection: Connection, names: Sequence[str]) -> list[str]:
    return [row.name for row in run(connection, DEAD, names=json_list(names))]


def _let_go(connection: Connection, items: Sequence[Sequence[str]]) -> Sequence[None]:
    for names in items:
        run(connection, RELEASE_ACCOUNTS, names=json_list(names))
        run(connection, RELEASE_REPLAYS, names=json_list(names))
    notify(connection, "polling")
    return [None] * len(items)


def _release(connection: Connection, items: Sequence[tuple[Sequence[str], float]]) -> Sequence[int]:
    _let_go(connection, [names for names, _ in items])
    notify(connection, "deliveries")
    return [run(connection, RELEASE_DELIVERIES, names=json_list(names), now=now).rowcount for names, now in items]
