"""No hot query of PostgreSQL reads more than it needs, with few rows or many. Every statement of the catalogue is
explained, with values and as the generic plan of a prepared statement."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import dialect as Asyncpg
from sqlalchemy.engine import Connection

from relay.store import upkeep
from relay.store.databases import notices
from relay.store.databases.postgres_engine import SEEKS
from relay.store.databases.statements import Insert, Sql
from relay.store.jobs import job_pages
from relay.store.jobs.job_pages import JobFilter
from relay.store.outbox import recording as outbox
from relay.store.store import Store, open_store
from tests.support.postgres_server import shared_server
from tests.support.scale import scaled
from tests.support.store_catalogue import CATALOGUE, Case, filling
from tests.support.store_databases import TEMPLATE, postgres_url
from tests.support.store_kit import NOW, ReversingCipher

LARGE = (
    *("jobs", "job_search", "events", "deliveries", "attempts", "idempotency_keys", "intents", "job_callbacks"),
    *("secrets", "hazards", "accounts", "replays"),
)
SORTED_ROWS = 5_000
"""Rows that may be sorted: the bound of a statement, as far as the planner knows it."""
WALKED_ROWS = 100
"""Rows that may be the whole index: the planner's estimate for a list of ids."""
WITH_CONDITION = re.compile(
    r"ix_jobs_(?:unended|closed|open)\w*$|ix_deliveries_(?:pending|dead|cancelled|uncertain|skipped|lease|replay)$|ix_replays_(?:running|ended_at)$"
)
TYPES: Mapping[str, Any] = {
    **{
        "now": NOW,
        "until": NOW,
        "before": NOW,
        "after": NOW - 1,
        "since": NOW + 200_000,
        "due_at": NOW,
        "deadline_at": NOW,
    },
    **{"count": 50, "sequence": 1, "position": 1, "xid": "1", "poll_step": 1},
    **{"owner": "", "event_owner": "", "incident": "inc_5"},
    **{"job_uid": "job_10000501", "subscription_id": "sub_5", "id": "dlv_10000501", "uid": "job_10000501"},
    **{"upto": NOW + 200_100, "last": 100, "every_type": 0, "job_events": 1, "again": 0, "callback": 1},
    **{"replay": "rpl_3", "holder": "node", "state": "dead", "reason": "", "passed": 1, "queued": 1, "delivered": 1},
    **{"in_flight_since": "int_10000500", "idempotency_key": "key 5", "path": "/api/v1/outreach/dispatches"},
    **{"body_digest": "digest 150", "created_at": NOW + 200_000, "reason": "no_answer", "status_code": 500},
    **{"dead": 1, "token": "lease 1", "external_id": "external 5", "source": "revor", "account": "default"},
    **{"after_uid": "job_1", "probe_at": NOW, "newest": 10_000},
}
LISTS = ("ids", "uids", "job_uids", "tokens", "external_ids", "rows", "priorities", "types", "event_ids")
MORE = (
    Case("lock jobs", outbox.LOCK_JOBS),
    Case("lock streams", outbox.LOCK_STREAMS),
    Case("retention: hold events", upkeep.LOCK_EVENTS),
    Case("version of the subscriptions", notices.VERSION),
)


@dataclass
class Plan:
    """A plan node, with its parents."""

    node: dict[str, Any]
    above: tuple[str, ...] = field(default=())

    def __iter__(self) -> Iterator["Plan"]:
        yield self
        for child in self.node.get("Plans", ()):
            yield from Plan(child, (*self.above, str(self.node["Node Type"])))

    def __str__(self) -> str:
        keys = ("Node Type", "Relation Name", "Index Name", "Index Cond", "Filter", "Plan Rows")
        return " | ".join(str(self.node[key]) for key in keys if key in self.node)


def problems(plan: Plan, case: Case, count: int) -> list[str]:
    """What is wrong with a plan, if the large tables have `count` rows."""
    return [str(node) for node in plan if _is_bad(node, case, count)]


def _is_bad(plan: Plan, case: Case, count: int) -> bool:
    node = plan.node
    kind, table = node["Node Type"], node.get("Relation Name")
    if kind == "Seq Scan":
        return table in LARGE
    if kind in ("Sort", "Incremental Sort"):
        return bool(max(child["Plan Rows"] for child in node["Plans"]) > SORTED_ROWS)
    if kind not in ("Index Scan", "Index Only Scan") or table not in LARGE or "Index Cond" in node:
        return False
    # Along the whole index: when it holds next to nothing, or for a page, to which (nearly) all rows belong.
    if node["Plan Rows"] <= WALKED_ROWS and WITH_CONDITION.match(node["Index Name"]):
        return False
    if "Limit" not in plan.above:
        return True
    under_limit = plan.above[len(plan.above) - plan.above[::-1].index("Limit") :]
    if "Sort" in under_limit:
        return True
    of_the_page = case.walks or WITH_CONDITION.match(node["Index Name"]) or node["Plan Rows"] > 0.9 * count
    return "Filter" in node and not of_the_page


def statement_of(case: Case, given: Mapping[str, Any] = TYPES) -> tuple[str, list[Any]]:
    """A statement of the catalogue as sent to the driver, with values."""
    statement = case.statement if case.postgresql is None else case.postgresql
    if isinstance(statement, Sql):
        statement = statement.postgresql
    elif isinstance(statement, str):
        statement = text(statement)
    if isinstance(case.statement, Insert):
        given = {}  # each parameter is a list
    compiled = statement.compile(dialect=Asyncpg(), compile_kwargs={"render_postcompile": True})
    values = [_value(name, compiled.params[name], given) for name in compiled.positiontup or ()]
    return str(compiled), values


def _value(name: str, value: Any, given: Mapping[str, Any]) -> Any:
    if value is not None:
        return value
    return "[]" if name in LISTS else given.get(name)


def explained(
    connection: Connection,
    case: Case,
    *,
    generic: bool,
    given: Mapping[str, Any] = TYPES,
    options: str = "FORMAT JSON",
) -> Plan:
    """The plan for these values, or the generic one."""
    statement, values = statement_of(case, given)
    if generic:
        connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
    else:
        connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_custom_plan")
    numbers = sorted({int(number) for number in re.findall(r"\$(\d+)", statement)})
    connection.exec_driver_sql(f"PREPARE explained AS {statement}")
    try:
        literals = ", ".join(_literal(values[number - 1]) for number in numbers)
        call = f"explained({literals})" if numbers else "explained"
        found = connection.exec_driver_sql(f"EXPLAIN ({options}) EXECUTE {call}").scalar_one()
    finally:
        connection.exec_driver_sql("DEALLOCATE explained")
    return Plan(found[0]["Plan"])


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    return str(value) if isinstance(value, int | float) else "'" + str(value).replace("'", "''") + "'"


@pytest.fixture(scope="module", params=[1_000, pytest.param(scaled(50_000, 300_000), marks=pytest.mark.verify)])
def filled_url(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A database with this many rows in each large table, and statistics."""
    postgres_url()
    server, name = shared_server(), f"plans_{request.param}"
    server.clone(TEMPLATE, name)
    tables = ("jobs", "events", "deliveries", "attempts")
    for statement in (
        *(f"ALTER TABLE {table} SET UNLOGGED" for table in tables),  # half of the time
        *filling(request.param, empty_bytes="'\\x7b7d'::bytea", to_bytes="convert_to({}, 'UTF8')"),
        "VACUUM ANALYZE",
    ):
        server.execute(statement, name)
    yield server.url(name), request.param
    server.drop_database(name)


@pytest.fixture
async def filled(filled_url: tuple[str, int]) -> Any:
    url, count = filled_url
    store: Store = await open_store(url, ReversingCipher(), now=NOW)
    yield store, count
    await store.close()


async def test_the_plan_of_every_hot_statement(filled: tuple[Store, int]) -> None:
    store, count = filled

    def explain_all(connection: Connection) -> dict[str, list[str]]:
        bad: dict[str, list[str]] = {}
        for case in (*CATALOGUE, *MORE):
            for generic in (False, True):
                plan = explained(connection, case, generic=generic)
                if problems(plan, case, count):
                    bad[f"{case.name}, {'generic' if generic else 'custom'}"] = [
                        f"{'  ' * len(node.above)}{node}" for node in plan
                    ]
        return bad

    bad = await store.database.read(explain_all)
    assert bad == {}, "\n".join(f"{name}:\n  " + "\n  ".join(plan) for name, plan in bad.items())


SMALL_POLLS = re.compile(r"pk_deliveries$|uq_deliveries_event_id_subscription_id$|ix_deliveries_(?:replay|open)$")


@pytest.fixture
def unknown_url() -> Iterator[str]:
    """A database with many deliveries of one subscription, half of them dead, and no statistics."""
    postgres_url()
    server, name = shared_server(), "plans_unknown"
    server.clone(TEMPLATE, name)
    server.execute("ALTER TABLE deliveries SET (autovacuum_enabled = false)", name)
    server.execute(
        f"""
INSERT INTO deliveries (id, event_id, subscription_id, job_uid, sequence, state, priority, due_at, attempt_count,
  made_count, created_at)
SELECT 'dlv_' || i, 'evt_' || i, 'sub_5', 'job_' || i, 1, CASE WHEN i % 2 = 0 THEN 'dead' ELSE 'delivered' END, 0,
  {NOW}, 1, 1, {NOW}
FROM generate_series(1, 20000) AS i""",
        name,
    )
    yield server.url(name)
    server.drop_database(name)


async def test_replay_seeks_each_delivery_without_statistics(unknown_url: str) -> None:
    """Otherwise counting a slice of events took a hundred times as long."""
    store = await open_store(unknown_url, ReversingCipher(), now=NOW)

    def used(connection: Connection) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for case in CATALOGUE:
            if case.name.startswith("replay: "):
                nodes = [plan.node for plan in explained(connection, case, generic=False)]
                of_deliveries = [node for node in nodes if "deliveries" in node.get("Index Name", "")]
                found[case.name] = {node["Index Name"] for node in of_deliveries}
        return found

    names = await store.database.read(used)
    await store.close()
    assert names["replay: count deliveries"] == names["replay: count events"] != set()
    assert {name for found in names.values() for name in found if not SMALL_POLLS.match(name)} == set()


@pytest.fixture(params=["nothing", "of yesterday", "before"])
def surprised_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database in which many deliveries open suddenly, while its statistics are missing, or from yesterday when a
    few existed, all delivered. Or it has only these, and its connections keep the plans that they make now."""
    postgres_url()
    server, name = shared_server(), f"plans_{request.param.replace(' ', '_')}"
    server.clone(TEMPLATE, name)
    server.execute("ALTER TABLE deliveries SET (autovacuum_enabled = false)", name)
    server.execute(_deliveries("'delivered'", "NULL", 1, 50), name)
    if request.param == "of yesterday":
        server.execute("ANALYZE", name)
    if request.param == "before":
        yield server.url(name)
        server.drop_database(name)
        return
    leased = "CASE WHEN i % 200 = 0 THEN 'lease ' || (i / 400) END"
    server.execute(_deliveries("CASE i % 2 WHEN 0 THEN 'pending' ELSE 'delivered' END", leased, 51, 20_000), name)
    yield server.url(name)
    server.drop_database(name)


def _deliveries(state: str, token: str, first: int, last: int) -> str:
    return f"""
INSERT INTO deliveries (id, event_id, subscription_id, job_uid, sequence, state, lease_token, priority, due_at,
  attempt_count, made_count, created_at)
SELECT 'dlv_' || i, 'evt_' || i, 'sub_5', 'job_' || i, 1, {state}, {token}, 0, {NOW}, 1, 1, {NOW}
FROM generate_series({first}, {last}) AS i"""


async def test_delivery_statements_seek_when_many_deliveries_open_suddenly(surprised_url: str) -> None:
    """Otherwise, until the next ANALYZE a minute later, every delivery would scan all open ones."""
    store = await open_store(surprised_url, ReversingCipher(), now=NOW)
    hot = (
        "claim",
        "end attempts",
        "probe",
        "drain",
        "release",
        "outbox",
        "pull",
        "remove",
        "retention",
        "ordering",
        "erase",
    )

    def walks(connection: Connection) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for case in CATALOGUE:
            if case.name.partition(":")[0] in hot:
                for generic in (False, True):
                    bad = [str(plan) for plan in explained(connection, case, generic=generic) if _walks(plan)]
                    if bad:
                        found[f"{case.name}, {'generic' if generic else 'custom'}"] = bad
        return found

    found = await store.database.read(walks)
    await store.close()
    assert found == {}


def _walks(plan: Plan) -> bool:
    """A scan of an index from its beginning, other than to its first entry, or of one that holds all of a
    subscription's deliveries."""
    node = plan.node
    if node.get("Relation Name") != "deliveries" or "Scan" not in node["Node Type"]:
        return False
    if node.get("Index Name") == "ix_deliveries_subscription_id_id":
        return True
    return "Index Cond" not in node and plan.above[-1:] != ("Limit",)


@pytest.fixture(params=["open", "ended"])
def ended_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with few open and failed jobs among many, whose statistics are of a few that were all the same."""
    postgres_url()
    server, name = shared_server(), f"plans_jobs_{request.param}"
    server.clone(TEMPLATE, name)
    server.execute("ALTER TABLE jobs SET (autovacuum_enabled = false)", name)
    of_all = "NULL" if request.param == "open" else "'succeeded'"
    server.execute(_jobs(of_all, 1, 2_000), name)
    server.execute("ANALYZE jobs", name)
    several = "CASE WHEN i < 2500 THEN NULL WHEN i % 1000 = 0 THEN 'failed' ELSE 'succeeded' END"
    server.execute(_jobs(several, 2_001, 20_000), name)
    yield server.url(name)
    server.drop_database(name)


def _jobs(outcome: str, first: int, last: int) -> str:
    return f"""
INSERT INTO jobs (uid, source, account, external_id, status, outcome, closed_at, sequence, retry_count, running_sent,
  overdue, attempt_count, weight, tracked_at, poll_count, failure_count, missing_count, metadata)
SELECT 'job_' || (10000000 + i), 'revor', 'default', 'external ' || i, COALESCE({outcome}, 'running'), {outcome},
  CASE WHEN {outcome} IS NOT NULL THEN {NOW} + i END, 1, 0, 0, 0, 1, 1.0, {NOW}, 1, 0, 0, '{{}}'
FROM generate_series({first}, {last}) AS i"""


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (JobFilter(open=True), "ix_jobs_unended"),
        (JobFilter(status="running"), "ix_jobs_unended"),
        (JobFilter(status="failed"), "ix_jobs_unsuccessful"),
    ],
)
async def test_a_page_of_rare_jobs_reads_them_alone_whatever_the_statistics(
    ended_url: str, wanted: JobFilter, index: str
) -> None:
    store = await open_store(ended_url, ReversingCipher(), now=NOW)
    (driver,) = job_pages.drivers_of(wanted)
    pages = [
        job_pages.end_statement(wanted, driver, None),
        *(job_pages.page_statement(51, before, wanted, driver) for before in (None, "job_10003000")),
    ]

    def used(connection: Connection) -> set[str]:
        plans = [explained(connection, Case("", page), generic=False) for page in pages]
        return {plan.node["Index Name"] for found in plans for plan in found if "Scan" in plan.node["Node Type"]}

    found = await store.database.read(used)
    await store.close()
    assert found == {index}


async def test_every_connection_prefers_index_seeks(filled: tuple[Store, int]) -> None:
    store, _ = filled

    def shown(connection: Connection) -> dict[str, str]:
        return {name: str(connection.exec_driver_sql(f"SHOW {name}").scalar_one()) for name in SEEKS}

    def shown_to_writer(connection: Connection, items: Sequence[None]) -> list[dict[str, str]]:
        return [shown(connection) for _ in items]

    assert await store.database.read(shown) == SEEKS
    assert await store.database.write(shown_to_writer, None) == SEEKS


async def test_callbacks_are_sought_without_statistics(unknown_url: str) -> None:
    """Otherwise each callback of a batch walked all jobs of its account."""
    store = await open_store(unknown_url, ReversingCipher(), now=NOW)

    def used(connection: Connection) -> set[str]:
        cases = [case for case in CATALOGUE if case.name.startswith("callback: ")]
        plans = [explained(connection, case, generic=generic) for case in cases for generic in (False, True)]
        return {plan.node["Index Name"] for found in plans for plan in found if "Index Name" in plan.node}

    found = await store.database.read(used)
    await store.close()
    assert found == {"uq_subscriptions_callback", "uq_jobs_external_id_source_account_resource", "pk_job_callbacks"}
