"""Several statements that PostgreSQL runs in one call, to save round trips.

A procedure consists of statements whose order does not depend on any result. It is stored as a temporary function of a
connection, so the schema does not contain it and it always matches this version. Its statements can also run one by
one, which is the fallback. SQLite has no round trips and does not use procedures.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from relay.store.databases.statements import Sql, fetch

MAY_DEFINE = "SELECT has_database_privilege(current_database(), 'TEMP')"
DEFINED = "procedures"
_PARAMETER = re.compile(r":([a-z_]+)")


@dataclass(frozen=True, slots=True)
class Run:
    """A statement. `rows`: the procedure's parameter that holds its rows."""

    statement: Sql
    rows: str = "rows"


@dataclass(frozen=True, slots=True)
class Lock:
    """A query that runs for its row locks."""

    query: Sql


@dataclass(frozen=True, slots=True)
class Each:
    """A statement that runs once per row of a query, with the row's columns as parameters."""

    statement: Sql
    query: Sql


class Procedure:
    """Statements that share parameters.

    name        of the function
    parameters  with their types
    counted     a query whose count must equal the parameter `count`; otherwise nothing is done
    steps       the statements, in order
    result      a `json_query`: the result
    """

    def __init__(
        self,
        name: str,
        *,
        parameters: Mapping[str, str],
        counted: Sql,
        steps: Sequence[Run | Lock | Each],
        result: Sql,
    ) -> None:
        self.name = name
        queries = (step.query for step in steps if isinstance(step, Lock | Each))
        statements = (step.statement for step in steps if isinstance(step, Run | Each))
        self.statements = (counted, *queries, *statements, result)
        self._parameters = parameters
        self._counted = counted
        self._steps = steps
        self._result = result
        self._call = f"SELECT pg_temp.{name}({', '.join(f':{parameter}' for parameter in parameters)})"

    def run(self, connection: Connection, **parameters: Any) -> list[list[Any]] | None:
        """Its result. None if nothing was done: the count differed, or this connection has no procedures."""
        if not connection.info.get(DEFINED):
            return None
        ((found,),) = fetch(connection, self._call, **parameters)
        rows: list[list[Any]] | None = None if found is None else orjson.loads(found)
        return rows

    def definition(self) -> str:
        """The statement that creates the function."""
        places = {parameter: f"${place}" for place, parameter in enumerate(self._parameters, 1)}

        def placed(statement: Sql, rows: str = "rows") -> str:
            return _PARAMETER.sub(
                lambda found: places[rows if found[1] == "rows" else found[1]], statement.postgresql.text
            )

        body = [f"IF ({placed(self._counted)}) <> {places['count']} THEN RETURN NULL; END IF"]
        for step in self._steps:
            match step:
                case Run():
                    body.append(f"IF {places[step.rows]} <> '[]' THEN {placed(step.statement, step.rows)}; END IF")
                case Lock():
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
    """Creates the procedures on every new connection of the engine, if the role may create temporary objects."""

    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        record.info[DEFINED] = connection.run_async(lambda driver: _define(driver, procedures))


async def _define(connection: Any, procedures: Sequence[Procedure]) -> bool:
    allowed: bool = await connection.fetchval(MAY_DEFINE)
    if allowed:
        for procedure in procedures:
            await connection.execute(procedure.definition())
    return allowed
