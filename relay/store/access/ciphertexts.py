"""Every encrypted column: which keys its ciphertexts need, and how rotation replaces them.

A column whose type in `tables.py` is `Sealed` holds ciphertexts. Each begins with a version and the id of its key, so
those of other keys are found without decrypting.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy.engine import Connection
from sqlmodel import SQLModel

from relay.store.databases.database import Database
from relay.store.databases.group_commit import each
from relay.store.databases.locks import locking, row_of
from relay.store.databases.statements import run, run_many

HEADER_BYTES = 5
"""One of the version, four of the key's id."""
READ_ROWS = 50

Place = tuple[str, ...]
"""The primary key of a row."""
Change = tuple[Place, bytes, bytes]
"""A row, its ciphertext, and the one that replaces it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedColumn:
    """A column of ciphertexts. `key`: the columns of the primary key, whose values are the context of a ciphertext."""

    table: str
    column: str
    key: tuple[str, ...]

    def context(self, place: Place) -> str:
        """The associated data that binds a ciphertext to its row."""
        return "/".join(place)

    @property
    def used(self) -> str:
        """Counts the ciphertexts that begin with each header."""
        return (
            f"SELECT substr({self.column}, 1, {HEADER_BYTES}) AS header, COUNT(*) AS number FROM {self.table} "
            f"WHERE {self.column} IS NOT NULL GROUP BY 1"
        )

    @property
    def stale(self) -> str:
        """The next ciphertexts that do not begin with a header."""
        keys, after = ", ".join(self.key), ", ".join(f":after_{name}" for name in self.key)
        return (
            f"SELECT {keys}, {self.column} FROM {self.table} WHERE {self.column} IS NOT NULL "
            f"AND substr({self.column}, 1, {HEADER_BYTES}) <> :header AND ({keys}) > ({after}) "
            f"ORDER BY {keys} LIMIT {READ_ROWS}"
        )

    @property
    def replace(self) -> str:
        """Replaces one ciphertext, unless it was changed since it was read."""
        here = " AND ".join(f"{name} = :{name}" for name in self.key)
        return f"UPDATE {self.table} SET {self.column} = :new WHERE {here} AND {self.column} = :old"


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
    """Reads and replaces ciphertexts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def used(self) -> Counter[str]:
        """Number of ciphertexts of each key, by its id in hex. Reads all of them."""
        found: Counter[str] = Counter()
        for column in sealed_columns():
            found.update(await self._database.read(_used, column))
        return found

    async def stale(self, column: SealedColumn, header: bytes, after: Place) -> list[tuple[Place, bytes]]:
        """The next ciphertexts behind a place that do not begin with `header`, READ_ROWS at most."""
        return await self._database.read(_stale, column, header, after)

    async def replace(self, column: SealedColumn, changes: Sequence[Change]) -> None:
        """Replaces ciphertexts. One that was changed meanwhile is left as it is."""
        await self._database.write(_replace, (column, changes))


def _used(connection: Connection, column: SealedColumn) -> dict[str, int]:
    return {bytes(row.header[1:]).hex(): row.number for row in run(connection, column.used)}


def _stale(connection: Connection, column: SealedColumn, header: bytes, after: Place) -> list[tuple[Place, bytes]]:
    places = {f"after_{name}": value for name, value in zip(column.key, after, strict=True)}
    return [(tuple(row[:-1]), bytes(row[-1])) for row in run(connection, column.stale, header=header, **places)]


@each
@locking(lambda item: [row_of(place[0]) for place, _, _ in item[1] if item[0].table == "subscriptions"])
def _replace(connection: Connection, item: tuple[SealedColumn, Sequence[Change]]) -> None:
    column, changes = item
    rows = [{**dict(zip(column.key, place, strict=True)), "old": old, "new": new} for place, old, new in changes]
    run_many(connection, column.replace, rows)
