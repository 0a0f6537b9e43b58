"""Notices to other nodes on the same database after a commit: wake-ups, without the data.

event UID                         recorded, of a job or of none
jobs SOURCE/ACCOUNT               registered
look SOURCE/ACCOUNT UID           poll this job soon (a word that nodes of other versions know)
weight SOURCE/ACCOUNT UID NUMBER  changed; a poll finds it too
gone SOURCE/ACCOUNT UID ID        untracked or purged; SOURCE/ACCOUNT/RESOURCE if its resource is not the first one
group ID                          finished
subscriptions                     changed
tokens                            changed
deliveries                        some are due that no event made
pulls                             the same, of subscriptions that programs pull from
polling                           an account's lease is free
node NAME                         a name is bound
all                               too many to list, or some may have been missed

A node that dies between commit and notice sends none, so whatever depends on notices is also reread from time to time.
SQLite has no other nodes: nothing is sent.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy.engine import Connection, Row

from relay.store.databases.group_commit import single
from relay.store.databases.statements import SQLITE, fetch, run

ALL = "all"
MAX_BYTES = 7_000  # PostgreSQL's NOTIFY takes 8,000
_KEY = "relay_notices"
# The version of the subscriptions, or of the tokens.
VERSION = "SELECT number FROM versions WHERE name = :name"
# Raises it. Serializes changes: the row stays locked until the transaction ends.
RAISE_VERSION = """
INSERT INTO versions (name, number) VALUES (:name, 1) ON CONFLICT (name) DO UPDATE SET number = versions.number + 1
"""


def notify(connection: Connection, notice: str) -> None:
    """Sends a notice to other nodes when the open transaction is committed."""
    if connection.dialect.name != SQLITE:
        connection.info.setdefault(_KEY, set()).add(notice)


def notify_gone(connection: Connection, job: Row[Any]) -> None:
    """Notifies other nodes that a job is no longer tracked. `job`: its row."""
    place = f"{job.source}/{job.account}/{job.resource}".removesuffix("/")
    notify(connection, f"gone {place} {job.uid} {job.external_id}")


def raise_version(connection: Connection, name: str) -> None:
    """Raises the version of the subscriptions or the tokens, by which other nodes find a change whose notice was
    lost."""
    run(connection, RAISE_VERSION, name=name)
    notify(connection, name)


@single
def version_of(connection: Connection, name: str) -> int:
    """The version of the subscriptions or the tokens: a number that rises with every change."""
    return next((int(number) for (number,) in fetch(connection, VERSION, name=name)), 0)


def take_notices(connection: Connection) -> set[str]:
    """The notices of the open transaction, which are then cleared."""
    notices: set[str] = connection.info.pop(_KEY, set())
    return notices


def payload(sender: str, notices: Iterable[str]) -> str:
    """The sender, then one notice per line."""
    lines = "\n".join(sorted(notices))
    return f"{sender}\n{lines if len(lines.encode()) < MAX_BYTES else ALL}"
