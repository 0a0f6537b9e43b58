"""Every statement of the store that has a name, as PostgreSQL gets it."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import dialect as Asyncpg
from sqlalchemy.sql.elements import ClauseElement

import relay.store
from relay.store.databases.statements import Sql

WHOLE = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH)\b")


def named_statements() -> dict[str, str]:
    """By module and name. Texts with a private name are parts of others."""
    found = {}
    for module in pkgutil.iter_modules(relay.store.__path__, "relay.store."):
        for name, value in vars(importlib.import_module(module.name)).items():
            for number, statement in enumerate(_texts_of(value, is_part=name.startswith("_"))):
                if WHOLE.match(statement):
                    found[f"{module.name}.{name}[{number}]"] = statement
    return found


def _texts_of(value: Any, *, is_part: bool) -> Iterator[str]:
    match value:
        case str() if not is_part:
            yield _compiled(text(value))
        case Sql():
            yield _compiled(value.postgresql)
        case ClauseElement():
            yield _compiled(value)
        case tuple() | list():
            for part in value:
                yield from _texts_of(part, is_part=is_part)
        case dict():
            for key, part in value.items():
                yield from () if key == "sqlite" else _texts_of(part, is_part=is_part)


def _compiled(statement: ClauseElement) -> str:
    return str(statement.compile(dialect=Asyncpg()))  # type: ignore[no-untyped-call]
