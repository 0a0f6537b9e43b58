"""The hosts that each caller's callbacks go to: how many one token can have the relay send requests to.

A row is written before the callback is, and is deleted once the caller has not named the host for as long as closed
jobs are kept. Rows are therefore bounded by the limit times the number of tokens and accounts.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.engine import Connection

from relay.store.databases.database import Database
from relay.store.databases.group_commit import each
from relay.store.databases.locks import CALLBACK_HOSTS, locking
from relay.store.databases.statements import insert_into, run
from relay.store.schema.tables import CallbackHostRow

# The hosts of a caller.
HOSTS_OF_CALLER = "SELECT host FROM callback_hosts WHERE caller = :caller"
# Notes that a caller's callbacks go to a host.
CLAIM = f"""
{insert_into(CallbackHostRow, "caller", "host", "used_at")}
ON CONFLICT (caller, host) DO UPDATE SET used_at = excluded.used_at WHERE callback_hosts.used_at < excluded.used_at
"""


class _Claim(NamedTuple):
    caller: str
    hosts: Sequence[str]
    now: float
    limit: int


class CallbackHostStore:
    """Claims of hosts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, caller: str, hosts: Sequence[str], now: float, limit: int) -> set[str]:
        """Counts hosts for a caller, up to `limit` with those it has already. Returns the others; nothing is written
        for them."""
        return await self._database.write(_claim, _Claim(caller, hosts, now, limit))


@each
@locking(lambda _: [CALLBACK_HOSTS])
def _claim(connection: Connection, item: _Claim) -> set[str]:
    known = {row.host for row in run(connection, HOSTS_OF_CALLER, caller=item.caller)}
    refused = set()
    for host in dict.fromkeys(item.hosts):
        if host not in known and len(known) >= item.limit:
            refused.add(host)
        else:
            known.add(host)
            run(connection, CLAIM, caller=item.caller, host=host, used_at=item.now)
    return refused
