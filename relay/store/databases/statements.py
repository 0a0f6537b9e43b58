"""Raw SQL statements for the hot paths, one text per database, run without per-row work in Python.

SQLAlchemy spends more time on each row of an `executemany` than SQLite does, and the driver takes the interpreter lock
for each row. Statements that run thousands of times a second therefore go straight to the driver, within SQLAlchemy's
transaction. A list of ids is one JSON parameter, so that a statement has one text, prepared once, for any number of
ids.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import orjson
from sqlalchemy import Table, TextClause, text
from sqlalchemy.engine import Connection, CursorResult, Row
from sqlalchemy.engine import Dialect as Driver
from sqlalchemy.util import await_only
from sqlmodel import SQLModel

from relay.tasks import Turns

Item = TypeVar("Item")
SQLITE = "sqlite"
TEXT, REAL, INTEGER = "text", "double precision", "bigint"
_LISTED = {str: TEXT, float: REAL, int: INTEGER, bytes: "bytea"}
"""PostgreSQL's types of the columns that `insert_lists` writes."""


class Dialect:
    """The SQL fragments that differ between databases. Here SQLite's: it has one writer, so rows need no locks."""

    skip_locked = ""
    """The end of a SELECT that locks its rows and skips those locked by others."""

    def json_values(self, parameter: str) -> str:
        """A subquery with the members of a JSON list of texts."""
        return f"(SELECT value FROM json_each(:{parameter}))"

    def among(self, parameter: str) -> str:
        """A condition: the value before it is one of a JSON list of texts."""
        return f"IN {self.json_values(parameter)}"

    def json_rows(self, parameter: str, columns: Mapping[str, str]) -> str:
        """A subquery with one row per member of a JSON list of lists; `columns`: names, in order, and types."""
        shown = ", ".join(f"json_extract(value, '$[{place}]') AS {name}" for place, name in enumerate(columns))
        # materialized, because json_each renders a member again for each column read from it
        return f"(WITH member AS MATERIALIZED (SELECT value FROM json_each(:{parameter})) SELECT {shown} FROM member)"

    def json(self, parameter: str) -> str:
        """A JSON text as the value of a JSON column."""
        return f":{parameter}"

    def as_text(self, column: str) -> str:
        """UTF-8 bytes as text."""
        return f"CAST({column} AS TEXT)"

    def as_bytes(self, column: str) -> str:
        """Text as UTF-8 bytes."""
        return f"CAST({column} AS BLOB)"

    def epoch_days(self, column: str) -> str:
        """A time in epoch seconds as whole days since the epoch."""
        return f"CAST({column} / 86400 AS INTEGER)"

    def contains(self, column: str) -> str:
        """A condition: the bytes of a column contain those of the parameter `needle`."""
        return f"instr({column}, :needle) > 0"

    def for_update(self, alias: str) -> str:
        """The end of a SELECT that locks its rows, in key order, until the transaction ends."""
        return ""

    def for_key_share(self, alias: str) -> str:
        """The end of a SELECT that protects its rows from deletion until the transaction ends."""
        return ""


class _Postgresql(Dialect):
    """PostgreSQL's fragments."""

    skip_locked = "FOR UPDATE SKIP LOCKED"

    def json_values(self, parameter: str) -> str:
        return f"(SELECT jsonb_array_elements_text(CAST(:{parameter} AS jsonb)))"

    def among(self, parameter: str) -> str:
        # An array is sought by its index. A subquery is joined, perhaps with all of an index that PostgreSQL believes
        # empty: of a partial one until a tenth of the table is new.
        return f"= ANY(ARRAY{self.json_values(parameter)})"

    def json_rows(self, parameter: str, columns: Mapping[str, str]) -> str:
        shown = ", ".join(
            f"CAST(member ->> {place} AS {kind}) AS {name}" for place, (name, kind) in enumerate(columns.items())
        )
        return f"(SELECT {shown} FROM jsonb_array_elements(CAST(:{parameter} AS jsonb)) AS member)"

    def json(self, parameter: str) -> str:
        return f"CAST(:{parameter} AS jsonb)"

    def as_text(self, column: str) -> str:
        return f"convert_from({column}, 'UTF8')"

    def as_bytes(self, column: str) -> str:
        return f"convert_to({column}, 'UTF8')"

    def epoch_days(self, column: str) -> str:
        return f"CAST(FLOOR({column} / 86400) AS bigint)"

    def contains(self, column: str) -> str:
        return f"position(CAST(:needle AS bytea) IN {column}) > 0"

    def for_update(self, alias: str) -> str:
        key = {"jobs": ("uid",), "streams": ("uid",), "sink_memories": ("subscription_id", "key")}.get(alias, ("id",))
        return f"ORDER BY {', '.join(f'{alias}.{name}' for name in key)} FOR UPDATE OF {alias}"

    def for_key_share(self, alias: str) -> str:
        return f"FOR KEY SHARE OF {alias}"


@dataclass(frozen=True, slots=True)
class Sql:
    """One statement, as each database writes it."""

    sqlite: str
    postgresql: TextClause


@dataclass(frozen=True, slots=True)
class Insert(Sql):
    """An INSERT that SQLite runs for each row. PostgreSQL takes each column as a list and runs it once: many rows cost
    half as much."""


_FRAGMENT = re.compile(r"\$([a-z_]+)(?:\(([\w.]+)\))?")
_WITHOUT_ALIAS = re.compile(r"\b(?:FROM|JOIN)\s+\$json_\w+\([\w.]+\)(?!\s+AS\b)")
"""PostgreSQL refuses a subquery in FROM that has no name, up to version 15."""


def sql(template: str, postgresql: str | None = None, **rows: Mapping[str, str]) -> Sql:
    """The statement of a template in each dialect. `$json_values(ids)` stands for `Dialect.json_values("ids")`, and so
    on; `rows` has the columns of each `$json_rows` parameter. `postgresql` replaces the template for PostgreSQL.

    Raises ValueError for a list in FROM that has no name.
    """
    return Sql(
        sqlite=_written(template, Dialect(), rows),
        postgresql=text(_written(postgresql or template, _Postgresql(), rows)),
    )


def _written(template: str, dialect: Dialect, rows: Mapping[str, Mapping[str, str]]) -> str:
    if (unnamed := _WITHOUT_ALIAS.search(template)) is not None:
        raise ValueError(f"{unnamed.group()!r} needs an alias: write {unnamed.group()} AS name")

    def fragment(found: re.Match[str]) -> str:
        name, argument = found.groups()
        if name == "json_rows":
            return dialect.json_rows(argument, rows[argument])
        made = getattr(dialect, name)
        return str(made(argument) if argument else made)

    return _FRAGMENT.sub(fragment, template)


def json_query(template: str, columns: Sequence[str], postgresql: str | None = None) -> Sql:
    """A query for `fetch_json` that returns all rows as one JSON text. SQLite's driver takes the interpreter lock for
    each row read, and waits for it while the event loop is busy."""
    shown = ", ".join(columns)
    array = f"CAST(COALESCE(json_agg(json_build_array({shown})), '[]') AS text)"
    return sql(
        f"SELECT json_group_array(json_array({shown})) FROM ({template})",
        f"SELECT {array} FROM ({postgresql or template}) AS found",
    )


def table_of(row: type[SQLModel]) -> Table:
    """The Core table of a class: compiling a hot statement of it costs less than of the class."""
    table: Table = row.__table__  # type: ignore[attr-defined]
    return table


def insert_into(row: type[SQLModel], *columns: str, constants: Mapping[str, str] | None = None) -> str:
    """An INSERT of named columns. `constants`: SQL literals for further columns."""
    table, fixed = table_of(row), constants or {}
    known = [table.c[name].name for name in (*columns, *fixed)]
    values = [*(f":{name}" for name in columns), *fixed.values()]
    return f"INSERT INTO {table.name} ({', '.join(known)}) VALUES ({', '.join(values)})"


def insert_lists(
    row: type[SQLModel], *columns: str, constants: Mapping[str, str] | None = None, end: str = ""
) -> Insert:
    """An INSERT of named columns for `run_many`. `end`: what follows, such as ON CONFLICT."""
    table, fixed = table_of(row), constants or {}
    lists = ", ".join(f"CAST(:{name} AS {_LISTED[table.c[name].type.python_type]}[])" for name in columns)
    given = f"SELECT {', '.join((*columns, *fixed.values()))} FROM unnest({lists}) AS given({', '.join(columns)})"
    names = ", ".join((*columns, *fixed))
    return Insert(
        sqlite=insert_into(row, *columns, constants=constants) + end,
        postgresql=text(f"INSERT INTO {table.name} ({names}) {given}{end}"),
    )


def columns_of(row: type[SQLModel], *names: str, alias: str | None = None) -> str:
    """Column names for a SELECT."""
    table = table_of(row)
    return ", ".join(f"{alias or table.name}.{table.c[name].name}" for name in names)


def json_list(values: Sequence[Any]) -> str:
    """A list as the single parameter that `json_values` reads."""
    return orjson.dumps(values).decode()


def run(connection: Connection, statement: Sql | str, **parameters: Any) -> CursorResult[Any]:
    """Runs a statement once through SQLAlchemy. Rows are as the driver returns them; no column is decoded."""
    if connection.dialect.name == SQLITE:
        return connection.exec_driver_sql(_lite(statement), parameters)
    return connection.execute(_postgresql(statement), parameters)


def run_all(connection: Connection, statement: Sql | str, parameters: Mapping[str, Any]) -> Sequence[Row[Any]]:
    """All rows of a statement that `run` runs, for `Database.read`."""
    return run(connection, statement, **parameters).all()


def fetch(connection: Connection, statement: Sql | str, **parameters: Any) -> Sequence[Sequence[Any]]:
    """All rows of a query, as sequences. Like the functions below, it bypasses SQLAlchemy."""
    rows: Sequence[Sequence[Any]] = _driven(connection, statement, parameters).fetchall()
    return rows


def fetch_json(connection: Connection, statement: Sql, **parameters: Any) -> list[list[Any]]:
    """All rows of a `json_query`. SQLite writes numbers with 15 digits, so times are accurate to 10 microseconds."""
    ((text,),) = fetch(connection, statement, **parameters)
    found: list[list[Any]] = orjson.loads(text)
    return found


def run_rows(connection: Connection, statement: Sql, rows: Sequence[Sequence[Any]]) -> int:
    """Runs a statement that reads `json_rows('rows', …)`: one driver call for any number of rows. Returns the number
    of rows changed."""
    changed: int = _driven(connection, statement, {"rows": json_list(rows)}).rowcount if rows else 0
    return changed


def run_many(connection: Connection, statement: Sql | str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Runs a statement once for each of `rows`, which may be empty. Returns the number of rows changed; on PostgreSQL
    it may be negative: unknown."""
    if not rows:
        return 0
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = rows
    if isinstance(statement, Insert) and connection.dialect.name != SQLITE:
        parameters = {name: [row[name] for row in rows] for name in rows[0]}
    changed: int = _driven(connection, statement, parameters).rowcount
    return changed


def _driven(
    connection: Connection, statement: Sql | str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> Any:
    """The driver's cursor after a statement, in SQLAlchemy's transaction. SQLAlchemy's overhead equals SQLite's own
    cost, and is twice that of asyncpg and the server together; with cold processor caches it is several times that.

    Raises sqlite3.Error, or for PostgreSQL what SQLAlchemy raises.
    """
    if connection.dialect.name == SQLITE:
        lite = driver_of(connection).cursor()
        if isinstance(parameters, Mapping):
            return lite.execute(_lite(statement), parameters)
        return lite.executemany(_lite(statement), parameters)
    dialect: Any = connection.dialect
    sent, names = _numbered(_postgresql(statement), dialect)
    cursor: Any = connection.connection.cursor()
    cursor._invalidate_schema_cache_asof = dialect._invalidate_schema_cache_asof
    try:
        if isinstance(parameters, Mapping):
            cursor.execute(sent, [parameters[name] for name in names])
        else:
            cursor.executemany(sent, [[row[name] for name in names] for row in parameters])
    except BaseException as error:  # a cancelled wait ends the connection too
        if isinstance(error, dialect.dbapi.InvalidCachedStatementError | dialect.dbapi.InternalServerError):
            dialect._invalidate_schema_cache()  # a migration has changed the type of a result
        connection._handle_dbapi_exception(error, None, None, cursor, None)
    return cursor


@lru_cache(maxsize=1_000)
def _numbered(statement: TextClause, dialect: Driver) -> tuple[str, Sequence[str]]:
    """A statement as asyncpg reads it, and the names of its numbered parameters."""
    compiled = statement.compile(dialect=dialect)
    return compiled.string, compiled.positiontup or ()


def in_turns(connection: Connection, items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items, each of which may take the caller some milliseconds. On PostgreSQL the caller runs in the event
    loop, so other tasks run in between. SQLite has a thread."""
    if connection.dialect.name == SQLITE:
        yield from items
        return
    turns = Turns()
    for item in items:
        yield item
        if turns.over:
            await_only(turns.next())


def driver_of(connection: Connection) -> sqlite3.Connection:
    """SQLite's driver connection below SQLAlchemy's."""
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
