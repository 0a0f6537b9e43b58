"""The locks that transactions on PostgreSQL wait for, and the one order in which all of them take them.

1. Advisory locks, before every other statement of a group: in the order of `Kind`, those of one kind by key.
2. Rows of subscriptions that the group changes, by id.
3. Other rows, by key. Batch functions run in the order of their names. One that locks deliveries and then their jobs,
   or the rows of many jobs, has a transaction of its own: see `alone` in `group_commit`.
4. Groups of jobs, by id: see `collected` in `group_commit`.
5. Streams of the relay's own events, by uid, in the same way. When a head ends, streams are locked after jobs.

A batch function declares with `locking` the locks of its items, and `run_group` takes them for the whole group. A
lock that is taken later, because nothing but the database knows that it is needed, is correct but can deadlock.
SQLite has one writer and no locks.
"""

from collections.abc import Callable, Iterable
from enum import IntEnum, unique
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.engine import Connection

from relay.store.databases.statements import SQLITE, Sql, fetch, json_list, sql

_HELD = "relay_locks"
_NEEDS = "needs"

Function = TypeVar("Function", bound=Callable[..., Any])


@unique
class Key(IntEnum):
    """The key of every numbered advisory lock. `holders` locks names of nodes, by a hash of 64 bits."""

    CHANGE = 7212601
    MIGRATION = 7212602
    UPKEEP = 7212603
    """Tried and never waited for: one node at a time does the upkeep."""
    INCIDENTS = 7212604
    CALLBACK_HOSTS = 7212605
    ADOPTION = 7212607
    AUDIT = 7212608


class Kind(IntEnum):
    """The things that locks protect, in the order in which locks are taken."""

    CHANGE = 0
    """The subscriptions, to change them. Held to the end of the transaction, as are all the others."""
    MATCH = 1
    """The subscriptions, shared with others that match events."""
    INCIDENTS = 2
    """The incidents of an account (its owner is the key), of a subscription's sink (its id), or of no account ('')."""
    CALLBACK_HOSTS = 3
    """Two nodes that claim a host at once could both find room for one more."""
    ADOPTION = 4
    """Every starting node adopts restored events, and none continues before all is done."""
    AUDIT = 5
    """The end of the audit's chain: each entry follows the one before."""
    SUBSCRIPTION = 6
    """A subscription's row, by its id."""


class TransactionLock(NamedTuple):
    """A lock that is held to the end of its transaction."""

    kind: Kind
    key: str = ""


CHANGE, MATCH = TransactionLock(Kind.CHANGE), TransactionLock(Kind.MATCH)
CALLBACK_HOSTS, ADOPTION, AUDIT = (TransactionLock(kind) for kind in (Kind.CALLBACK_HOSTS, Kind.ADOPTION, Kind.AUDIT))


def incidents_of(key: str | None) -> TransactionLock:
    """The turn to change the incidents of an owner, or of a subscription's sink."""
    return TransactionLock(Kind.INCIDENTS, key or "")


def row_of(subscription_id: str) -> TransactionLock:
    """The row of a subscription."""
    return TransactionLock(Kind.SUBSCRIPTION, subscription_id)


def to_change(subscription_id: str) -> tuple[TransactionLock, ...]:
    """The locks that a change of a subscription takes."""
    return CHANGE, row_of(subscription_id)


_STATEMENTS: dict[Kind, Sql | str] = {
    Kind.CHANGE: f"SELECT pg_advisory_xact_lock({Key.CHANGE})",
    Kind.MATCH: f"SELECT pg_advisory_xact_lock_shared({Key.CHANGE})",
    # By hash, since hashes are locked: two keys can have one.
    Kind.INCIDENTS: sql(
        f"""
SELECT pg_advisory_xact_lock({Key.INCIDENTS}, found.hash) FROM (
  SELECT DISTINCT hashtext(wanted.key) AS hash FROM $json_values(keys) AS wanted(key) ORDER BY hash
) AS found
"""
    ),
    Kind.CALLBACK_HOSTS: f"SELECT pg_advisory_xact_lock({Key.CALLBACK_HOSTS})",
    Kind.ADOPTION: f"SELECT pg_advisory_xact_lock({Key.ADOPTION})",
    Kind.AUDIT: f"SELECT pg_advisory_xact_lock({Key.AUDIT})",
    Kind.SUBSCRIPTION: sql("SELECT id FROM subscriptions s WHERE id IN $json_values(keys) $for_update(s)"),
}
_WITH_KEYS = (Kind.INCIDENTS, Kind.SUBSCRIPTION)


def locking(needs: Callable[[Any], Iterable[TransactionLock]]) -> Callable[[Function], Function]:
    """Declares the locks that each item of a batch function needs."""

    def mark(function: Function) -> Function:
        setattr(function, _NEEDS, needs)
        return function

    return mark


def take_all(connection: Connection, work: Iterable[tuple[Callable[..., Any], Iterable[Any]]]) -> None:
    """Takes the locks that these batch functions need for their items, as the first statements of a transaction."""
    connection.info.pop(_HELD, None)  # of the transaction before
    wanted: set[TransactionLock] = set()
    for batch, items in work:
        needs = getattr(batch, _NEEDS, None)
        if needs is not None and connection.dialect.name != SQLITE:
            for item in items:
                wanted.update(needs(item))
    if wanted:
        hold(connection, wanted)


def hold(connection: Connection, locks: Iterable[TransactionLock]) -> None:
    """Takes those of these locks that the open transaction does not hold already."""
    if connection.dialect.name == SQLITE:
        return
    held: set[TransactionLock] = connection.info.setdefault(_HELD, set())
    wanted = set(locks) - held
    if MATCH in wanted and (CHANGE in wanted or CHANGE in held):
        wanted.discard(MATCH)
    for kind in sorted({lock.kind for lock in wanted}):
        keys = {"keys": json_list(sorted(lock.key for lock in wanted if lock.kind is kind))}
        fetch(connection, _STATEMENTS[kind], **(keys if kind in _WITH_KEYS else {}))
    held |= wanted
