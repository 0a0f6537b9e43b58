"""Figures over time: counts of the nodes are added to the rows of each minute, hour and day.

Several nodes add to the same rows. Each write is a transaction of its own that locks its rows in key order, so nothing
is lost and nothing deadlocks.
"""

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from relay.core.figures import FIGURES, Name, Point, Row, Span, points
from relay.store.databases.database import Database, Scoped
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
    run_rows,
    sql,
)
from relay.store.schema.tables import FigureRow

MAX_SUMMED = 100
"""Subscriptions of an account whose figures are summed, the newest first."""

_KEY = ("name", "label", "span", "began_at", "bucket")
_ADDED = dict(zip((*_KEY, "count", "total"), (TEXT, TEXT, TEXT, REAL, INTEGER, INTEGER, REAL), strict=True))
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
# One series since a time, of one label or the sum of several.
SERIES = json_query(
    f"""
SELECT {columns_of(FigureRow, "began_at", "bucket")}, SUM(count) AS count, SUM(total) AS total FROM figures
WHERE name = :name AND label $among(labels) AND span = :span AND began_at >= :since
GROUP BY began_at, bucket ORDER BY began_at, bucket
""",
    ("began_at", "bucket", "count", "total"),
)
# The newest subscriptions of an account, searched among those of all accounts: it may have a million callbacks.
OWN_SUBSCRIPTIONS = sql(
    "SELECT id FROM subscriptions WHERE CASE WHEN owner IS NOT NULL THEN owner END = :owner AND callback = 0"
    f" ORDER BY id DESC LIMIT {MAX_SUMMED}"
)
# True if a subscription is an account's.
OWN_SUBSCRIPTION = sql("SELECT id FROM subscriptions WHERE id = :id AND owner = :owner")


class FigureStore(Scoped):
    """Writes and reads of figures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Sequence[Row]) -> None:
        """Adds to rows, given in the order of their keys, in one transaction."""
        await self._database.write(_add, rows)

    async def series(self, names: Sequence[Name], label: str, span: Span, since: float) -> list[list[Point]]:
        """The points of each name since a time. The empty label: of the whole relay.

        Limited to an account, the empty label means the account and its subscriptions, and any label that is not one
        of these has no figures.
        """
        return await self._database.read(_series, names, label, span, since, self._owner)


@alone()
def _add(connection: Connection, items: Sequence[Sequence[Row]]) -> Sequence[None]:
    for rows in items:
        run_rows(connection, ADD, [[*row] for row in rows])
    return [None] * len(items)


def _series(
    connection: Connection, names: Sequence[Name], label: str, span: Span, since: float, owner: str | None
) -> list[list[Point]]:
    kinds = {FIGURES[name].label for name in names}
    meant = {kind: json_list(_labels(connection, kind, label, owner)) for kind in kinds}
    return [
        points(
            name,
            fetch_json(connection, SERIES, name=name, labels=meant[FIGURES[name].label], span=span, since=since),
        )
        for name in names
    ]


def _labels(connection: Connection, kind: str, label: str, owner: str | None) -> list[str]:
    """The labels whose figures are meant, and may be seen."""
    if "\0" in label:
        return []
    if owner is None:
        return [label]
    if kind == "account":
        return [owner] if label in ("", owner) else []
    if kind == "subscription" and label:
        return [row[0] for row in fetch(connection, OWN_SUBSCRIPTION, id=label, owner=owner)]
    if kind == "subscription":
        return [row[0] for row in fetch(connection, OWN_SUBSCRIPTIONS, owner=owner)]
    return []
