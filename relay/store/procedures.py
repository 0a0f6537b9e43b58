"""Several statements that PostgreSQL runs in one call.

A round trip costs the network, and a turn of the event loop: more than most statements cost the server. A procedure is
made of statements whose order no answer changes. It is stored as a temporary function of a connection, so nothing of it
is in the schema, and it is always that of this version. What it does, its statements do one by one as well; that is
what its user falls back to. (SQLite has no round trips. The same as a temporary trigger gained nothing that could be
told from noise.)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import event, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from relay.store.statements import Sql

MAY_DEFINE = "SELECT has_database_privilege(current_database(), 'TEMP')"
DEFINED = "procedures"
_PARAMETER = re.compile(r":([a-z_]+)")


@dataclass(frozen=True, slots=True)
class Run:
    """A statement. `rows`: the parameter of the procedure that has its rows."""

    statement: Sql
    rows: str = "rows"


@dataclass(frozen=True, slots=True)
class Hold:
    """A query that is run for its locks."""

    query: Sql


@dataclass(frozen=True, slots=True)
class Each:
    """A statement that is run once for each row of a query, whose columns are its parameters."""

    statement: Sql
    query: Sql


class Procedure:
    """Statements with parameters in common.

    name        of the function
    parameters  with their types
    counted     a query that has to count as much as the parameter `count` says: else nothing is done
    steps       what is done, in this order
    result      a `gathered` query: what was done
    """

    def __init__(
        self,
        name: str,
        *,
        parameters: Mapping[str, str],
        counted: Sql,
        steps: Sequence[Run | Hold | Each],
        result: Sql,
    ) -> None:
        self.name = name
        queries = (step.query for step in steps if isinstance(step, Hold | Each))
        statements = (step.statement for step in steps if isinstance(step, Run | Each))
        self.statements = (counted, *queries, *statements, result)
        self._parameters = parameters
        self._counted = counted
        self._steps = steps
        self._result = result
        self._call = text(f"SELECT pg_temp.{name}({', '.join(f':{parameter}' for parameter in parameters)})")

    def run(self, connection: Connection, **parameters: Any) -> list[list[Any]] | None:
        """Its result; None where nothing was done: the count was another, or this connection has no procedures."""
        if not connection.info.get(DEFINED):
            return None
        found = connection.execute(self._call, parameters).scalar_one()
        rows: list[list[Any]] | None = None if found is None else orjson.loads(found)
        return rows

    def definition(self) -> str:
        """The statement that makes the function."""
        places = {parameter: f"${place}" for place, parameter in enumerate(self._parameters, 1)}

        def placed(statement: Sql, rows: str = "rows") -> str:
            return _PARAMETER.sub(
                lambda found: places[rows if found[1] == "rows" else found[1]], statement.postgresql.text
            )

        body = [f"IF ({placed(self._counted)}) <> {places['count']} THEN RETURN NULL; END IF"]
        for step in self._steps:
            match step:
                case Run():
                    body.append(placed(step.statement, step.rows))
                case Hold():
                    body.append(f"PERFORM 1 FROM ({placed(step.query)}) AS held")
                case Each():
                    statement = _PARAMETER.sub(r"one.\1", step.statement.postgresql.text)
                    body.append(f"FOR one IN {placed(step.query)} LOOP {statement}; END LOOP")
        body.append(f"RETURN ({placed(self._result)})")
        lines = ";\n".join(body)
        return (
            f"CREATE OR REPLACE FUNCTION pg_temp.{self.name}({', '.join(self._parameters.values())}) RETURNS text "
            f"LANGUAGE plpgsql AS $procedure$ DECLARE one record; BEGIN\n{lines};\nEND $procedure$"
        )


def define(engine: AsyncEngine, procedures: Sequence[Procedure]) -> None:
    """Has every connection that the engine makes from now on know these, where it may make something temporary."""

    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        record.info[DEFINED] = connection.run_async(lambda driver: _define(driver, procedures))


async def _define(connection: Any, procedures: Sequence[Procedure]) -> bool:
    allowed: bool = await connection.fetchval(MAY_DEFINE)
    if allowed:
        for procedure in procedures:
            await connection.execute(procedure.definition())
    return allowed
