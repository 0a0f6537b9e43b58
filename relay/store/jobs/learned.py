"""SavedStatistics statistics: one row per class of a source's jobs, shared by all nodes."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.records import SavedStatistics
from relay.store.databases.database import Database
from relay.store.databases.statements import REAL, TEXT, columns_of, json_list, run, run_rows, sql
from relay.store.schema.tables import HazardRow

MAX_LOADED_ROWS = 10_000
MAX_NAME_CHARACTERS = 200
SAVED_AT_ONCE = 500

_COLUMNS = ("source", "name", "event_count", "values_json", "updated_at")
_KINDS = (TEXT, TEXT, REAL, TEXT, REAL)
# Writes statistics. Of two nodes, the row based on more events is kept.
SAVE = sql(
    f"""
INSERT INTO hazards ({", ".join(_COLUMNS)})
SELECT {columns_of(HazardRow, *_COLUMNS, alias="found")}
FROM $json_rows(rows) AS found WHERE true
ON CONFLICT (source, name) DO UPDATE
SET event_count = excluded.event_count, values_json = excluded.values_json, updated_at = excluded.updated_at
WHERE excluded.event_count >= hazards.event_count
""",
    rows=dict(zip(_COLUMNS, _KINDS, strict=True)),
)
# A source's statistics, most events first.
LOAD = f"""
SELECT {columns_of(HazardRow, "name", "event_count", "values_json")} FROM hazards
WHERE source = :source ORDER BY event_count DESC, name LIMIT {MAX_LOADED_ROWS}
"""
# A source's statistics by name.
FIND = sql(
    f"""
SELECT {columns_of(HazardRow, "name", "event_count", "values_json")} FROM hazards
WHERE source = :source AND name IN $json_values(names)
"""
)


class LearnedStore:
    """Reads and writes of learned statistics."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, rows: Sequence[SavedStatistics], now: float) -> None:
        """Writes each row, unless the stored one is based on more events. Skips rows that cannot be stored: a name
        of more than 200 characters, or text that no database accepts."""
        kept = [row for row in rows if _can_be_kept(row)]
        for first in range(0, len(kept), SAVED_AT_ONCE):
            await self._database.write(_save, (kept[first : first + SAVED_AT_ONCE], now))

    async def load(self, source: str) -> list[SavedStatistics]:
        """The rows of a source, most events first, at most 10,000."""
        return await self._database.read(_load, source)

    async def find(self, source: str, names: Sequence[str]) -> list[SavedStatistics]:
        """The rows of a source with these names."""
        return await self._database.read(_find, source, names)


def _can_be_kept(row: SavedStatistics) -> bool:
    texts = (row.source, row.name, row.values)
    if len(row.name) > MAX_NAME_CHARACTERS or not math.isfinite(row.event_count) or any("\0" in one for one in texts):
        return False
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _save(connection: Connection, items: Sequence[tuple[Iterable[SavedStatistics], float]]) -> Sequence[None]:
    newest: dict[tuple[str, str], tuple[SavedStatistics, float]] = {}  # a statement may change a row once
    for rows, now in items:
        for row in rows:
            key = (row.source, row.name)
            if key not in newest or row.event_count >= newest[key][0].event_count:
                newest[key] = (row, now)
    run_rows(
        connection,
        SAVE,
        [
            (*key, row.event_count, row.values, now)
            for key, (row, now) in sorted(newest.items(), key=lambda one: one[0])
        ],
    )
    return [None] * len(items)


def _load(connection: Connection, source: str) -> list[SavedStatistics]:
    return [_saved(source, row) for row in run(connection, LOAD, source=source)]


def _find(connection: Connection, source: str, names: Sequence[str]) -> list[SavedStatistics]:
    kept = [name for name in names if "\0" not in name]
    return [_saved(source, row) for row in run(connection, FIND, source=source, names=json_list(kept))]


def _saved(source: str, row: Any) -> SavedStatistics:
    return SavedStatistics(source=source, name=row.name, event_count=row.event_count, values=row.values_json)
