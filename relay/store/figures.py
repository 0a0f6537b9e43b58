"""Figures over time: what nodes have counted is added to the rows of each minute, hour and day.

Several nodes add to the same rows. Each write is a transaction of its own that locks its rows in key order, so nothing
is lost and nothing deadlocks.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.figures import (
    FIGURES,
    Cell,
    Key,
    Name,
    Point,
    Series,
    Span,
    Sum,
    gauge_value,
    joined,
    newest,
    packed_buckets,
    packed_parts,
    unpacked_buckets,
    unpacked_parts,
)
from relay.store.databases.database import Database
from relay.store.databases.group_commit import alone
from relay.store.databases.statements import (
    INTEGER,
    REAL,
    TEXT,
    columns_of,
    fetch,
    fetch_json,
    json_list,
    json_query,
    run_many,
    run_rows,
    sql,
)
from relay.store.schema.tables import FigureRow
from relay.store.scoped import Scoped

MAX_WRITTEN = 200
"""Rows that one transaction writes: more would hold up the writes of deliveries."""
MAX_POINTS = 2_000
"""More than any span keeps."""
MAX_SUMMED = 100
"""Subscriptions of an account whose figures are summed, the newest first."""

Row = tuple[Key, Cell]

_KEY = ("name", "label", "span", "began_at")
_ADDED = dict(zip((*_KEY, "count", "total"), (TEXT, TEXT, TEXT, REAL, INTEGER, REAL), strict=True))
# Adds to rows, or makes them. It locks them, in the order of the parameter, until the transaction ends.
ADD = sql(
    f"""
INSERT INTO figures ({", ".join(_ADDED)})
SELECT {", ".join(f"added.{name}" for name in _ADDED)} FROM $json_rows(rows) AS added WHERE true
ON CONFLICT ({", ".join(_KEY)}) DO UPDATE
SET count = figures.count + excluded.count, total = figures.total + excluded.total
""",
    rows=_ADDED,
)
# The buckets of rows that the open transaction has locked.
BUCKETS = sql(
    f"""
SELECT {", ".join(f"f.{name}" for name in _KEY)}, f.buckets FROM $json_rows(rows) AS wanted
CROSS JOIN figures AS f WHERE {" AND ".join(f"f.{name} = wanted.{name}" for name in _KEY)} AND f.buckets IS NOT NULL
""",
    rows={name: _ADDED[name] for name in _KEY},
)
_THIS = " AND ".join(f"{name} = :{name}" for name in _KEY)
# Writes the buckets of a row that the open transaction has locked.
SET_BUCKETS = f"UPDATE figures SET buckets = :buckets WHERE {_THIS}"
# The same of a gauge, with its value.
SET_GAUGE = f"UPDATE figures SET buckets = :buckets, total = :total WHERE {_THIS}"
_SERIES = f"""
FROM figures
WHERE name = :name AND label = :label AND span = :span AND began_at >= :since ORDER BY began_at LIMIT {MAX_POINTS}
"""
_SHOWN = f"SELECT {columns_of(FigureRow, 'began_at', 'count', 'total')}"
# One series since a time, in order.
SERIES = json_query(f"{_SHOWN} {_SERIES}", ("began_at", "count", "total", "NULL"))
# The same of durations, with their buckets.
DETAILED_SERIES = json_query(
    f"{_SHOWN}, hex(buckets) AS buckets {_SERIES}",
    ("began_at", "count", "total", "buckets"),
    f"{_SHOWN}, encode(buckets, 'hex') AS buckets {_SERIES}",
)
# The newest subscriptions of an account, without callbacks. Found among those of all accounts: with its callbacks an
# account may have a million.
OWN_SUBSCRIPTIONS = sql(
    "SELECT id FROM subscriptions WHERE CASE WHEN owner IS NOT NULL THEN owner END = :owner AND callback = 0"
    f" ORDER BY id DESC LIMIT {MAX_SUMMED}"
)
# Whether a subscription is an account's.
OWN_SUBSCRIPTION = sql("SELECT id FROM subscriptions WHERE id = :id AND owner = :owner")


class FigureStore(Scoped):
    """Writes and reads of figures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Sequence[Row]) -> None:
        """Adds to at most MAX_WRITTEN rows, given in the order of their keys, in one transaction."""
        if rows:
            await self._database.write(_add, rows)

    async def series(self, names: Sequence[Name], labels: Sequence[str], span: Span, since: float) -> list[Series]:
        """The figures of each label and name since a time. The empty label: of the whole relay.

        Limited to an account, the empty label means the account and its subscriptions, and any label that is not one
        of these has no figures.
        """
        return await self._database.read(_series, names, labels, span, since, self._owner)


@alone()
def _add(connection: Connection, items: Sequence[Sequence[Row]]) -> Sequence[None]:
    for rows in items:
        run_rows(
            connection,
            ADD,
            [(*key, cell.count, 0.0 if cell.parts is not None else cell.total) for key, cell in rows],
        )
        detailed = [(key, cell) for key, cell in rows if cell.buckets is not None or cell.parts is not None]
        if not detailed:
            continue
        keys = json_list([key for key, _ in detailed])
        stored = {tuple(row[:4]): row[4] for row in fetch(connection, BUCKETS, rows=keys)}
        buckets: list[dict[str, Any]] = []
        gauges: list[dict[str, Any]] = []
        for key, cell in detailed:
            place = dict(zip(_KEY, key, strict=True))
            before = stored.get(key)
            if cell.parts is not None:
                parts = newest(unpacked_parts(before), cell.parts)
                total = gauge_value(key[0], key[1], parts)
                gauges.append({**place, "buckets": packed_parts(parts), "total": total})
            else:
                made = joined(unpacked_buckets(before), cell.buckets or {})
                buckets.append({**place, "buckets": packed_buckets(made)})
        run_many(connection, SET_BUCKETS, buckets)
        run_many(connection, SET_GAUGE, gauges)
    return [None] * len(items)


def _series(
    connection: Connection, names: Sequence[Name], labels: Sequence[str], span: Span, since: float, owner: str | None
) -> list[Series]:
    found: list[Series] = []
    for label in labels:
        meant: dict[str, list[str]] = {}
        for name in names:
            kind = FIGURES[name].label
            if kind not in meant:
                meant[kind] = [] if "\0" in label else _labels(connection, kind, label, owner)
            found.append(Series(name=name, label=label, points=_points(connection, name, meant[kind], span, since)))
    return found


def _labels(connection: Connection, kind: str, label: str, owner: str | None) -> list[str]:
    """The labels whose figures are meant, and may be seen."""
    if owner is None:
        return [label]
    if kind == "account":
        return [owner] if label in ("", owner) else []
    if kind == "subscription" and label:
        return [row[0] for row in fetch(connection, OWN_SUBSCRIPTION, id=label, owner=owner)]
    if kind == "subscription":
        return [row[0] for row in fetch(connection, OWN_SUBSCRIPTIONS, owner=owner)]
    return []


def _points(connection: Connection, name: Name, labels: Sequence[str], span: Span, since: float) -> list[Point]:
    statement = DETAILED_SERIES if FIGURES[name].kind == "values" else SERIES
    found = Sum(name)
    for label in labels:  # one at a time: on PostgreSQL the event loop computes, and others have their turn in between
        found.add(fetch_json(connection, statement, name=name, label=label, span=span, since=since))
    return found.points()
