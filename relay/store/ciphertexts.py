"""Every encrypted column, the keys that encrypt them, and the nodes that know those keys.

A column whose type in `tables.py` is `Sealed` holds ciphertexts; rotation finds it by that. The id of a key is part of
each ciphertext, so stale ones are found without decrypting. `encryption_keys` lists every key that a ciphertext may
need: a key is added before it encrypts anything, and removed when a rotation has found it unused.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from sqlalchemy.engine import Connection
from sqlmodel import SQLModel

from relay.core.encryption import NodeKeys
from relay.store.database import Database
from relay.store.group_commit import each
from relay.store.locks import ENCRYPTION_KEYS, TransactionLock, locking, row_of
from relay.store.statements import run, run_many

SLICE = 500
"""Rows read at once."""
MAX_INLINE_BYTES = 8_192
"""A longer ciphertext is read by itself: a stored response can have megabytes."""
LAPSE_SECONDS = 60.0
"""A node that has not announced its keys for so long does not run. Nor does one that announced them in the future: the
clock was set back since."""

# The keys that ciphertexts may need.
USED = "SELECT id FROM encryption_keys ORDER BY created_at, id"
# Notes a key before it encrypts anything.
USE = "INSERT INTO encryption_keys (id, created_at) VALUES (:id, :now) ON CONFLICT (id) DO NOTHING"
# Forgets a key that no ciphertext needs.
RETIRE = "DELETE FROM encryption_keys WHERE id = :id"
# The keys of the other running nodes.
OTHERS = """
SELECT node, keys, since FROM node_keys WHERE node <> :node AND seen_at > :after AND seen_at < :before ORDER BY node
"""
# Says that this node runs, and with which keys.
ANNOUNCE = """
INSERT INTO node_keys (node, keys, since, seen_at) VALUES (:node, :keys, :since, :now)
ON CONFLICT (node) DO UPDATE SET keys = excluded.keys, since = excluded.since, seen_at = excluded.seen_at
"""
# Removes a node, and those that stopped without a word.
WITHDRAW = "DELETE FROM node_keys WHERE node = :node OR seen_at < :before"

Place = tuple[str, ...]
"""The primary key of a row."""
Judge = Callable[[Sequence[str], Sequence[NodeKeys]], str | None]
"""Given the used keys and the other nodes: why something must not happen, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedColumn:
    """A column of ciphertexts. `key`: the columns of the primary key, whose values are the context of a ciphertext."""

    table: str
    column: str
    key: tuple[str, ...]

    def context(self, place: Place) -> str:
        """What binds a ciphertext to its row."""
        return "/".join(place)

    @property
    def slice(self) -> str:
        """The next rows: key, length if the ciphertext is stale (else 0), and the stale ciphertext if it is short."""
        stale = f"substr({self.column}, 1, {{size}}) <> :header"
        keys, after = ", ".join(self.key), ", ".join(f":after_{name}" for name in self.key)
        return (
            f"SELECT {keys}, CASE WHEN {stale} THEN length({self.column}) ELSE 0 END, "
            f"CASE WHEN {stale} AND length({self.column}) <= {MAX_INLINE_BYTES} THEN {self.column} END "
            f"FROM {self.table} WHERE ({keys}) > ({after}) ORDER BY {keys} LIMIT {SLICE}"
        )

    @property
    def read(self) -> str:
        """One ciphertext."""
        return f"SELECT {self.column} FROM {self.table} WHERE {self._here}"

    @property
    def replace(self) -> str:
        """Replaces one ciphertext, unless it was changed since it was read."""
        return f"UPDATE {self.table} SET {self.column} = :new WHERE {self._here} AND {self.column} = :old"

    @property
    def _here(self) -> str:
        return " AND ".join(f"{name} = :{name}" for name in self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """A ciphertext of another key than the first. `blob`: None if it is too long to be read with others."""

    place: Place
    size: int
    blob: bytes | None


@cache
def sealed_columns() -> tuple[SealedColumn, ...]:
    """Every column of ciphertexts."""
    return tuple(
        SealedColumn(table=table.name, column=column.name, key=tuple(key.name for key in table.primary_key))
        for table in SQLModel.metadata.sorted_tables
        for column in table.columns
        if column.info.get("sealed")
    )


class CiphertextStore:
    """Reads and replaces ciphertexts, and keeps the lists of keys. Ids of keys are hex."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.shared = database.shared

    # --- ciphertexts

    async def stale(self, column: SealedColumn, header: bytes, after: Place) -> tuple[list[Stale], Place | None]:
        """The ciphertexts that do not begin with `header` among the SLICE rows after a place, and where to continue
        (None: at the end)."""
        rows = await self._database.read(_slice, column, header, after)
        width = len(column.key)
        found = [Stale(place=tuple(row[:width]), size=row[-2], blob=row[-1]) for row in rows if row[-2]]
        return found, tuple(rows[-1][:width]) if len(rows) == SLICE else None

    async def read(self, column: SealedColumn, place: Place) -> bytes | None:
        """One ciphertext; None if it is gone."""
        return await self._database.read(_read, column, place)

    async def replace(self, column: SealedColumn, changes: Sequence[tuple[Place, bytes, bytes]]) -> None:
        """Replaces ciphertexts, each (place, old, new). One that was changed meanwhile is left as it is."""
        await self._database.write(_replace, (column, changes))

    # --- keys

    async def used(self) -> list[str]:
        """The keys that ciphertexts may need, the oldest first."""
        return await self._database.read(_used)

    async def others(self, node: str, now: float) -> list[NodeKeys]:
        """The keys of the other running nodes."""
        return await self._database.read(_others, node, now) if self.shared else []

    async def take(self, mine: NodeKeys, now: float, judge: Judge) -> str | None:
        """Announces a node's keys and notes its first one as used, unless `judge` objects. Returns the objection."""
        return await self._database.write(_take, (mine, now, judge, self.shared))

    async def withdraw(self, node: str, now: float) -> None:
        """The node runs no longer."""
        if self.shared:
            await self._database.write(_withdraw, (node, now))

    async def retire(self, key: str, node: str, now: float, judge: Judge) -> str | None:
        """Forgets every key but this one, unless `judge` objects. Returns the objection."""
        return await self._database.write(_retire, (key, node, now, judge, self.shared))


def batches(found: Sequence[Stale], most_rows: int, most_bytes: int) -> Iterator[list[Stale]]:
    """The ciphertexts in groups of bounded size, in order."""
    group: list[Stale] = []
    size = 0
    for one in found:
        if group and (len(group) >= most_rows or size + one.size > most_bytes):
            yield group
            group, size = [], 0
        group.append(one)
        size += one.size
    if group:
        yield group


def _slice(connection: Connection, column: SealedColumn, header: bytes, after: Place) -> Sequence[Sequence[Any]]:
    places = {f"after_{name}": value for name, value in zip(column.key, after, strict=True)}
    return run(connection, column.slice.format(size=len(header)), header=header, **places).all()


def _read(connection: Connection, column: SealedColumn, place: Place) -> bytes | None:
    found = run(connection, column.read, **dict(zip(column.key, place, strict=True))).scalar_one_or_none()
    return None if found is None else bytes(found)


@each
@locking(lambda item: _rows_of(*item))
def _replace(connection: Connection, item: tuple[SealedColumn, Sequence[tuple[Place, bytes, bytes]]]) -> None:
    column, changes = item
    rows = [{**dict(zip(column.key, place, strict=True)), "old": old, "new": new} for place, old, new in changes]
    run_many(connection, column.replace, rows)


def _used(connection: Connection) -> list[str]:
    return [row[0] for row in run(connection, USED)]


def _others(connection: Connection, node: str, now: float) -> list[NodeKeys]:
    rows = run(connection, OTHERS, node=node, after=now - LAPSE_SECONDS, before=now + LAPSE_SECONDS)
    return [NodeKeys(node=row.node, keys=tuple(orjson.loads(row.keys)), since=row.since) for row in rows]


def _rows_of(column: SealedColumn, changes: Sequence[tuple[Place, bytes, bytes]]) -> Iterator[TransactionLock]:
    return (row_of(place[0]) for place, _, _ in changes if column.table == "subscriptions")


@each
@locking(lambda _: [ENCRYPTION_KEYS])
def _take(connection: Connection, item: tuple[NodeKeys, float, Judge, bool]) -> str | None:
    mine, now, judge, shared = item
    others = _others(connection, mine.node, now) if shared else []
    objection = judge(_used(connection), others)
    if objection is None:
        run(connection, USE, id=mine.keys[0], now=now)
        if shared:
            keys = orjson.dumps(mine.keys).decode()
            run(connection, ANNOUNCE, node=mine.node, keys=keys, since=mine.since, now=now)
    return objection


@each
def _withdraw(connection: Connection, item: tuple[str, float]) -> None:
    node, now = item
    run(connection, WITHDRAW, node=node, before=now - 100 * LAPSE_SECONDS)


@each
@locking(lambda _: [ENCRYPTION_KEYS])
def _retire(connection: Connection, item: tuple[str, str, float, Judge, bool]) -> str | None:
    key, node, now, judge, shared = item
    objection = judge(used := _used(connection), _others(connection, node, now) if shared else [])
    if objection is None:
        for id in used:
            if id != key:
                run(connection, RETIRE, id=id)
    return objection
