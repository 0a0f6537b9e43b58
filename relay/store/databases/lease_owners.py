"""Lease holders, and which of them have died, so that their leases are released at once. PostgreSQL only.

A node's name can be bound to its listening connection by an advisory lock on the name, which the server releases when
the connection ends. A bound name contains the server's start time, because locks do not survive a restart or failover:
a free lock then proves nothing, and leases must expire. A name is bound before its first use and never again, so a node
found dead stays dead.
"""

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from relay.core.deliveries.delivery import at_once
from relay.store.databases.database import Database
from relay.store.databases.notices import notify
from relay.store.databases.statements import json_list, run, sql

BINDING = "@"
"""Separates a bound name from the server's start time."""
SERVER_START = "CAST(CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000 AS bigint) AS text)"
BIND = f"""
SELECT name FROM (SELECT $1 || '{BINDING}' || {SERVER_START} AS name) AS bound
WHERE pg_try_advisory_lock(hashtextextended(name, 0))
"""
"""For the driver: the bound name, locked by this connection."""
_IS_BOUND = f"name LIKE '%{BINDING}' || {SERVER_START}"
# The bound names that hold a lease. Reads every leased row.
BOUND_NAMES = f"""
WITH held AS MATERIALIZED (
  SELECT DISTINCT split_part(lease_token, '.', 1) AS name FROM deliveries WHERE lease_token IS NOT NULL
  UNION SELECT holder FROM accounts WHERE holder IS NOT NULL
  UNION SELECT holder FROM replays WHERE holder IS NOT NULL AND state = 'running'
)
SELECT name FROM held WHERE {_IS_BOUND}
"""
# Names that have lost their advisory lock. A lock that can be taken shared has no holder. It is released at the end of
# the transaction.
DEAD_NAMES = sql(
    f"""
WITH held AS MATERIALIZED (SELECT * FROM $json_values(names) AS listed (name))
SELECT name FROM held WHERE CASE
  WHEN {_IS_BOUND} THEN pg_try_advisory_xact_lock_shared(hashtextextended(name, 0)) ELSE false
END
"""
)
# Releases the deliveries that some names hold. Rows locked by a transaction of the dead node are released next time.
RELEASE_DELIVERIES = sql(
    """
UPDATE deliveries SET lease_token = NULL, due_at = :due_at WHERE id IN (
  SELECT id FROM deliveries
  WHERE lease_token IS NOT NULL AND split_part(lease_token, '.', 1) IN $json_values(names)
  $skip_locked
)
"""
)
# Releases the accounts that some names hold.
RELEASE_ACCOUNTS = sql("UPDATE accounts SET holder = NULL, held_until = NULL WHERE holder IN $json_values(names)")
# Releases the replays that some names hold.
RELEASE_REPLAYS = sql("UPDATE replays SET holder = NULL, held_until = NULL WHERE holder IN $json_values(names)")


class LeaseOwnerStore:
    """Nodes, as known from the leases they hold."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def bound(self) -> list[str]:
        """The bound names that hold a lease, whether their nodes live or not."""
        return await self._database.read(_bound)

    async def dead(self, names: Sequence[str]) -> list[str]:
        """The names of these that belong to nodes that have certainly died."""
        return await self._database.read(_dead, names) if names else []

    async def release_accounts(self, names: Sequence[str]) -> None:
        """Releases the accounts and replays of these names, so that other nodes can take them at once."""
        await self._database.write(_release_accounts, tuple(names))

    async def release(self, names: Sequence[str], now: float) -> int:
        """Releases everything these names hold, deliveries included. Returns the number of leases."""
        return await self._database.write(_release, (tuple(names), now))


def _bound(connection: Connection) -> list[str]:
    return [row.name for row in run(connection, BOUND_NAMES)]


def _dead(connection: Connection, names: Sequence[str]) -> list[str]:
    return [row.name for row in run(connection, DEAD_NAMES, names=json_list(names))]


def _release_accounts(connection: Connection, items: Sequence[Sequence[str]]) -> Sequence[int]:
    notify(connection, "polling")
    return [
        sum(run(connection, query, names=json_list(names)).rowcount for query in (RELEASE_ACCOUNTS, RELEASE_REPLAYS))
        for names in items
    ]


def _release(connection: Connection, items: Sequence[tuple[Sequence[str], float]]) -> Sequence[int]:
    others = _release_accounts(connection, [names for names, _ in items])
    notify(connection, "deliveries")
    return [
        count + run(connection, RELEASE_DELIVERIES, names=json_list(names), due_at=at_once(now)).rowcount
        for count, (names, now) in zip(others, items, strict=True)
    ]
