"""Statements are compiled once for all stores of a process of tests.

SQLAlchemy keeps what it has compiled for each engine. Each test opens a store with an engine of its own, and would
compile the same hundred statements again: a seventh of the time of the store's tests.
"""

from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache

_caches: dict[type, LRUCache[Any, Any]] = {}
_open = Engine.__init__


def _with_shared_cache(self: Engine, *arguments: Any, **options: Any) -> None:
    _open(self, *arguments, **options)
    self._compiled_cache = _caches.setdefault(type(self.dialect), LRUCache(5_000))


def share_compiled_statements() -> None:
    """For all engines from now on. Dialects of one class are the same to the cache: the tests have one server."""
    Engine.__init__ = _with_shared_cache  # type: ignore[method-assign]
    DefaultDialect.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign, assignment]
    DefaultDialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign, assignment]
