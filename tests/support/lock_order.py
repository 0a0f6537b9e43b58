"""Watches transactions on PostgreSQL: what they wait for is locked before everything else, see
`relay.store.databases.locks`."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from relay.store.databases import statements
from relay.store.databases.locks import Key

_WAITED_FOR = [str(key.value) for key in Key if key not in (Key.MIGRATION, Key.UPKEEP)]
ADVISORY = re.compile(rf"pg_advisory_xact_lock(_shared)?\(({'|'.join(_WAITED_FOR)})\b")
ROWS = "FROM subscriptions s WHERE id IN"
CHANGES_ROWS = re.compile(r"^\s*(UPDATE|DELETE FROM) subscriptions\b")
_ORDER = "watched_order"


@contextmanager
def each_statement(note: Callable[[Connection, str, Any], None]) -> Iterator[None]:
    """Calls `note` with each statement for PostgreSQL, with or without SQLAlchemy, and its parameters."""
    driven = statements._driven

    def executed(connection: Connection, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if connection.dialect.name == "postgresql":
            note(connection, statement, parameters)

    def sent(connection: Connection, statement: Any, parameters: Any) -> Any:
        if connection.dialect.name == "postgresql":
            shown, names = statements._numbered(statements._postgresql(statement), connection.dialect)
            one = parameters if isinstance(parameters, Mapping) else parameters[0]
            note(connection, shown, [one[name] for name in names])
        return driven(connection, statement, parameters)

    event.listen(Engine, "before_cursor_execute", executed)
    statements._driven = sent
    try:
        yield
    finally:
        statements._driven = driven
        event.remove(Engine, "before_cursor_execute", executed)


@contextmanager
def watched_order() -> Iterator[list[str]]:
    """Yields a list, to which statements are added that come too late, or that change subscriptions without a lock."""
    wrong: list[str] = []

    def begun(connection: Connection) -> None:
        connection.info[_ORDER] = []

    def note(connection: Connection, statement: str, _parameters: Any) -> None:
        seen: list[str] = connection.info.setdefault(_ORDER, [])
        kind = "advisory" if ADVISORY.search(statement) else "rows" if ROWS in statement else "other"
        late = (kind == "advisory" and {"rows", "other"} & set(seen)) or (kind == "rows" and "other" in seen)
        unlocked = seen and CHANGES_ROWS.search(statement) and "rows" not in seen  # alone it waits for nothing else
        if late or unlocked:
            wrong.append(f"{'late' if late else 'without the lock of the row'}: {' '.join(statement.split())[:200]}")
        seen.append(kind)

    event.listen(Engine, "begin", begun)
    try:
        with each_statement(note):
            yield wrong
    finally:
        event.remove(Engine, "begin", begun)
