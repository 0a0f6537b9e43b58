"""Statements of the hot paths: SQL made from the tables' own columns, run without any work per row.

SQLAlchemy spends more on each row of an `executemany` than SQLite does; what runs thousands of times a second is
therefore handed to the driver as it is. A list of ids is one JSON parameter, so a statement has one text (and is
prepared once) however many ids there are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Table
from sqlalchemy.engine import Connection, CursorResult


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


def listed(parameter: str) -> str:
    """A subquery with the members of a JSON list."""
    return f"(SELECT value FROM json_each(:{parameter}))"


def members(parameter: str, *names: str) -> str:
    """A subquery with one row for each member of a JSON list of lists, its columns named in order."""
    columns = ", ".join(f"json_extract(value, '$[{place}]') AS {name}" for place, name in enumerate(names))
    return f"(SELECT {columns} FROM json_each(:{parameter}))"


def gathered(query: str, *columns: str) -> str:
    """All rows of a query as one JSON text: the driver takes the interpreter's lock again for each row that it reads,
    and a busy event loop makes it wait for that."""
    return f"SELECT json_group_array(json_array({', '.join(columns)})) FROM ({query})"


def gather(connection: Connection, sql: str, **parameters: Any) -> list[list[Any]]:
    """What a `gathered` query finds. Numbers have 15 digits: times are true to 10 microseconds."""
    found: list[list[Any]] = orjson.loads(connection.exec_driver_sql(sql, parameters).scalar_one())
    return found


def at_once(connection: Connection, sql: str, rows: Sequence[Sequence[Any]]) -> int:
    """Runs a statement that reads `members('rows', …)`: one step of the driver, however many rows. Returns how many
    rows it changed."""
    return connection.exec_driver_sql(sql, {"rows": json_list(rows)}).rowcount if rows else 0


def many(connection: Connection, sql: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Runs a statement once for each of `rows`; none is fine."""
    if rows:
        connection.exec_driver_sql(sql, rows)


def rows_of(connection: Connection, sql: str, **parameters: Any) -> CursorResult[Any]:
    """The rows of a query, as the driver gives them: no column is decoded."""
    return connection.exec_driver_sql(sql, parameters)
