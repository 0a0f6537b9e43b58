"""Statements of the hot paths, in the words of each database, run without any work per row.

SQLAlchemy spends more on each row of an `executemany` than SQLite does, and its driver takes the interpreter's lock
again for each: what runs thousands of times a second is therefore handed to the driver as it is, in the transaction of
what goes through SQLAlchemy. A list of ids is one JSON parameter, so a statement has one text (and is prepared once)
however many ids there are.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import orjson
from sqlalchemy import Table, TextClause, text
from sqlalchemy.engine import Connection, CursorResult

SQLITE = "sqlite"
TEXT, REAL, INTEGER = "text", "double precision", "bigint"


class Dialect(Protocol):
    """How a database says what the others say otherwise."""

    def listed(self, parameter: str) -> str:
        """A subquery with the members of a JSON list of texts."""

    def members(self, parameter: str, **columns: str) -> str:
        """A subquery with one row for each member of a JSON list of lists: its columns in order, with their types."""

    def as_text(self, column: str) -> str:
        """Bytes of UTF-8 as text."""

    def as_bytes(self, column: str) -> str:
        """Text as bytes of UTF-8."""

    def days(self, column: str) -> str:
        """A time in epoch seconds as whole days since then."""

    def locked(self, alias: str) -> str:
        """The end of a SELECT that holds its rows, in the order of their keys, until the transaction ends."""

    def kept(self, alias: str) -> str:
        """The end of a SELECT whose rows nobody deletes until the transaction ends."""

    @property
    def skipping(self) -> str:
        """The end of a SELECT that holds its rows and passes over those that somebody else holds."""


class _Sqlite:
    """One writer: rows need no lock of their own."""

    skipping = ""

    def listed(self, parameter: str) -> str:
        return f"(SELECT value FROM json_each(:{parameter}))"

    def members(self, parameter: str, **columns: str) -> str:
        shown = ", ".join(f"json_extract(value, '$[{place}]') AS {name}" for place, name in enumerate(columns))
        # json_each writes a member anew each time its value is read: once, not for each column
        return f"(WITH member AS MATERIALIZED (SELECT value FROM json_each(:{parameter})) SELECT {shown} FROM member)"

    def as_text(self, column: str) -> str:
        return f"CAST({column} AS TEXT)"

    def as_bytes(self, column: str) -> str:
        return f"CAST({column} AS BLOB)"

    def days(self, column: str) -> str:
        return f"CAST({column} / 86400 AS INTEGER)"

    def locked(self, alias: str) -> str:
        return ""

    def kept(self, alias: str) -> str:
        return ""


class _Postgresql:
    skipping = "FOR UPDATE SKIP LOCKED"

    def listed(self, parameter: str) -> str:
        return f"(SELECT jsonb_array_elements_text(CAST(:{parameter} AS jsonb)))"

    def members(self, parameter: str, **columns: str) -> str:
        shown = ", ".join(
            f"CAST(member ->> {place} AS {kind}) AS {name}" for place, (name, kind) in enumerate(columns.items())
        )
        return f"(SELECT {shown} FROM jsonb_array_elements(CAST(:{parameter} AS jsonb)) AS member)"

    def as_text(self, column: str) -> str:
        return f"convert_from({column}, 'UTF8')"

    def as_bytes(self, column: str) -> str:
        return f"convert_to({column}, 'UTF8')"

    def days(self, column: str) -> str:
        return f"CAST(FLOOR({column} / 86400) AS bigint)"

    def locked(self, alias: str) -> str:
        key = {"jobs": "uid"}.get(alias, "id")
        return f"ORDER BY {alias}.{key} FOR UPDATE OF {alias}"

    def kept(self, alias: str) -> str:
        return f"FOR KEY SHARE OF {alias}"


@dataclass(frozen=True, slots=True)
class Sql:
    """One statement for each database."""

    sqlite: str
    postgresql: TextClause


def sql(template: Callable[[Dialect], str], postgresql: Callable[[Dialect], str] | None = None) -> Sql:
    """The statement that `template` writes with the words of each database; PostgreSQL may need another one."""
    return Sql(sqlite=template(_Sqlite()), postgresql=text((postgresql or template)(_Postgresql())))


def gathered(template: Callable[[Dialect], str], columns: Callable[[Dialect], Sequence[str]]) -> Sql:
    """For `gather`: all rows are one JSON text. SQLite's driver takes the interpreter's lock again for each row that it
    reads, and a busy event loop makes it wait for that."""
    lite, postgresql = _Sqlite(), _Postgresql()
    array = f"COALESCE(json_agg(json_build_array({', '.join(columns(postgresql))})), '[]')"
    return Sql(
        sqlite=f"SELECT json_group_array(json_array({', '.join(columns(lite))})) FROM ({template(lite)})",
        postgresql=text(f"SELECT CAST({array} AS text) FROM ({template(postgresql)}) AS found"),
    )


def insert_into(table: Table, *columns: str, constants: Mapping[str, str] | None = None) -> str:
    """An INSERT of these columns by name; `constants` are SQL literals for further ones."""
    fixed = constants or {}
    known = [table.c[name].name for name in (*columns, *fixed)]
    values = [*(f":{name}" for name in columns), *fixed.values()]
    return f"INSERT INTO {table.name} ({', '.join(known)}) VALUES ({', '.join(values)})"


def columns_of(table: Table, *names: str, alias: str | None = None) -> str:
    """Columns for a SELECT."""
    return ", ".join(f"{alias or table.name}.{table.c[name].name}" for name in names)


def json_list(values: Sequence[Any]) -> str:
    """A list as the one parameter that `listed` reads."""
    return orjson.dumps(values).decode()


def run(connection: Connection, statement: Sql | str, **parameters: Any) -> CursorResult[Any]:
    """Runs a statement once. Rows come as the driver gives them: no column is decoded."""
    if connection.dialect.name == SQLITE:
        return connection.exec_driver_sql(_lite(statement), parameters)
    return connection.execute(_postgresql(statement), parameters)


def query(connection: Connection, statement: Sql, **parameters: Any) -> Sequence[Sequence[Any]]:
    """What a query finds, its columns by their places; past SQLAlchemy, as all that follow."""
    return _execute(connection, statement, parameters).fetchall()


def gather(connection: Connection, statement: Sql, **parameters: Any) -> list[list[Any]]:
    """What a `gathered` query finds. From SQLite, numbers have 15 digits: times are true to 10 microseconds."""
    ((text,),) = query(connection, statement, **parameters)
    found: list[list[Any]] = orjson.loads(text)
    return found


def at_once(connection: Connection, statement: Sql, rows: Sequence[Sequence[Any]]) -> int:
    """Runs a statement that reads `members('rows', …)`: one step of the driver, however many rows. Returns how many
    rows it changed."""
    return _execute(connection, statement, {"rows": json_list(rows)}).rowcount if rows else 0


def many(connection: Connection, statement: Sql | str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Runs a statement once for each of `rows`; none is fine."""
    if rows:
        _execute(connection, statement, rows)


def _execute(
    connection: Connection, statement: Sql | str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> sqlite3.Cursor | CursorResult[Any]:
    if connection.dialect.name == SQLITE:
        return _driven(connection, statement, parameters)
    return connection.execute(_postgresql(statement), parameters)


def _driven(
    connection: Connection, statement: Sql | str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> sqlite3.Cursor:
    """SQLAlchemy's own part costs as much as the statement, and several times that where the processor's caches have
    seen other things meanwhile. Raises sqlite3.Error."""
    cursor = driver_of(connection).cursor()
    if isinstance(parameters, Mapping):
        return cursor.execute(_lite(statement), parameters)
    return cursor.executemany(_lite(statement), parameters)


def driver_of(connection: Connection) -> sqlite3.Connection:
    """What SQLAlchemy's connection to SQLite is one to."""
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _lite(statement: Sql | str) -> str:
    return statement if isinstance(statement, str) else statement.sqlite


def _postgresql(statement: Sql | str) -> TextClause:
    return _parsed(statement) if isinstance(statement, str) else statement.postgresql


@lru_cache(maxsize=1_000)
def _parsed(statement: str) -> TextClause:
    return text(statement)
