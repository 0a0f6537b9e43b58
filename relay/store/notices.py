"""What other nodes on the same database are told when a transaction ends: a wake-up, never the data itself.

`event UID` (of a job, or nothing), `jobs SOURCE/ACCOUNT`, `look SOURCE/ACCOUNT UID`, `weight SOURCE/ACCOUNT UID NUMBER`
(a look learns it too), `gone SOURCE/ACCOUNT UID ID` (untracked or purged), `subscriptions`, `deliveries` (some are due
that no event made), `polling` (an account's is free), `node NAME` (a name is bound); `all` when there is too much to
say, or when something may have been missed. A node that dies between its commit and its notice says nothing: whatever
is kept in memory because of notices is also read again now and then.
With SQLite there are no others, and nothing is said.
"""

from collections.abc import Iterable

from sqlalchemy.engine import Connection

from relay.store.statements import SQLITE

ALL = "all"
MAX_BYTES = 7_000  # PostgreSQL's NOTIFY takes 8,000
_KEY = "relay_notices"


def notify(connection: Connection, notice: str) -> None:
    """Has others told when the open transaction is committed."""
    if connection.dialect.name != SQLITE:
        connection.info.setdefault(_KEY, set()).add(notice)


def taken(connection: Connection) -> set[str]:
    """What is to be said of the open transaction."""
    notices: set[str] = connection.info.pop(_KEY, set())
    return notices


def payload(sender: str, notices: Iterable[str]) -> str:
    """The sender, then a line for each notice."""
    lines = "\n".join(sorted(notices))
    return f"{sender}\n{lines if len(lines.encode()) < MAX_BYTES else ALL}"
