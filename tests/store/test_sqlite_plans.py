"""No hot query reads more than it needs: every statement is explained, with statistics and without.

The statements are those of the catalogue (`tests/support/store_catalogue.py`).
"""

import asyncio
import re
import shutil
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite

from relay.store.databases.sqlite import url_of
from relay.store.databases.statements import Sql
from relay.store.store import Store, open_store
from tests.support.scale import scaled
from tests.support.store_catalogue import CATALOGUE, filling, is_page
from tests.support.store_kit import (
    NOW,
    ReversingCipher,
    callback_for,
    claim,
    deliver_all,
    execute,
    poll,
    registration,
    result_of,
    subscription,
    together,
)

HARMLESS_SCANS = re.compile(
    r"SCAN (?:"
    r"\w+ VIRTUAL TABLE INDEX \d+:"  # the members of a JSON list that came as a parameter
    r"|CONSTANT ROW|\d+ CONSTANT ROWS?"
    r"|member|due(?:_\d)?|found|oldest|counted"  # the rows that a subquery found, which is explained by itself
    r"|pending"  # the recursion over subscriptions, one seek a step
    r"|\(subquery-\d+\)|walk_\d+"  # the rows that a subquery found, which is explained by itself
    r")$"
)
ORDERED_WALK = re.compile(r"SCAN \w+ USING (?:COVERING )?INDEX \w+$")
# A page whose filter is the condition of a partial index goes along that index: it holds no other rows.
FILTERED_WALK = re.compile(
    r"SCAN \w+ USING (?:COVERING )?INDEX "
    r"(?:ix_jobs_unended|ix_groups_open|ix_deliveries_(?:pending|dead|cancelled|uncertain|skipped)|ix_replays_running|ix_subscriptions_listed|"
    r"ix_subscriptions_failing|ix_incidents_(?:shown|open|due|closed_at))$"
)


def problems(plan: Iterable[str], *, page: bool = False, walks: bool = False, sorts: bool = False) -> list[str]:
    """What is wrong with a plan. `page`: ends after some rows in index order; `walks`: a page without a filter,
    which may follow any index; `sorts`: a known small number of rows may be sorted."""
    found = []
    for step in plan:
        if step.startswith("SCAN"):
            walk = FILTERED_WALK if page and not walks else ORDERED_WALK
            if not HARMLESS_SCANS.match(step) and not ((page or walks) and walk.match(step)):
                found.append(step)
        elif "USE TEMP B-TREE" in step and not sorts:
            found.append(step)
    return found


def compiled(statement: Any) -> str:
    if isinstance(statement, Sql):
        return statement.sqlite
    if isinstance(statement, str):
        return statement
    return str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True}))


def plan_of(connection: sqlite3.Connection, statement: str, parameters: Any = None) -> list[str]:
    if parameters is None:
        names = re.findall(r":([a-z_]+)", statement)
        parameters = dict.fromkeys(names, "[]") if names else ["[]"] * statement.count("?")
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    return [str(row[3]) for row in rows]


async def fill(store: Store) -> None:
    """A few rows of every kind, in every state."""
    for name, fields in {"sub_1": {}, "sub_2": {"types": ("ai.revor.job.failed",)}}.items():
        await store.subscriptions.create(subscription(name, **fields))
    for n in range(20):  # of fewer, going through all is the shortest way
        await store.subscriptions.create(subscription(f"sub_of_nothing_{n}", types=()))
    callback = await callback_for(store, "https://callback.example", "sub_3", NOW)
    await store.secrets.add_secret("sub_1", "whsec_1", NOW)
    await store.secrets.add_secret("sub_1", "whsec_2", NOW, old_expire_at=NOW)
    batch = [
        registration(f"job {n}", callback_subscription_id=callback if n % 50 == 0 else None, tracked_at=NOW + n)
        for n in range(400)
    ]
    await store.jobs.register_many(batch)
    for start in range(0, 400, 100):
        writes = []
        for nth, one in enumerate(batch[start : start + 100]):
            ended = nth % 2 == 0
            kinds = ("queued", "running", "failed" if ended else "retrying")
            writes.append(store.jobs.record(poll(one.job.uid, 0, *kinds, outcome="failed" if ended else None)))
        await together(store, *writes)
    await deliver_all(store, "sub_2")
    for nth, one in enumerate(await claim(store, "sub_1", 300)):
        await store.deliveries.record(result_of(one, ("delivered", "dead", "pending")[nth % 3], due_at=NOW + 5))
    await execute(store, "UPDATE deliveries SET state = 'cancelled' WHERE sequence = 3 AND id > 'dlv_01kg'")
    # rows enough that reading a table whole is never the shortest way
    number = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
    for statement in (
        "INSERT INTO job_callbacks SELECT 'job_' || i, 'sub_' || i % 700, NULL FROM n",
        f"INSERT INTO idempotency_keys SELECT 'key ' || i, 'digest', 200, x'00', {NOW} + i, NULL, NULL FROM n",
        "INSERT INTO intents (id, source, account, path, body_digest, idempotency_key, created_at, reason, status_code)"
        " SELECT 'int_' || (10000000 + i), 'revor', 'default', '/dispatches', 'digest ' || i, "
        f"'key ' || i, {NOW} + i, CASE WHEN i % 20 = 0 THEN 'no_answer' END, NULL FROM n",
        "INSERT INTO incidents (id, digest, kind, owner, state, recent, failed_count, told_count, first_failure_at,"
        " last_failure_at, closed_at) SELECT 'inc_' || (10000000 + i), 'digest ' || i, 'jobs', 'revor/other', "
        f"'closed', '[]', 3, 3, {NOW}, {NOW}, {NOW} FROM n",
        f"INSERT INTO hazards SELECT 'revor', 'class ' || i, i, '{{}}', {NOW} FROM n",
        f"INSERT INTO streams SELECT 'key_' || i, 1, {NOW} FROM n",
    ):
        head, _, tail = statement.partition(" SELECT ")
        await execute(store, f"{head} {number} SELECT {tail}")
    await together(store, *(store.secrets.add_secret(f"other {n}", "whsec_1", NOW) for n in range(2000)))
    await execute(store, f"UPDATE secrets SET expires_at = {NOW} WHERE rowid % 7 = 0 AND owner <> 'sub_1'")


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite only; for PostgreSQL's plans see `test_postgres_plans`."""
    return url_of(tmp_path / "relay.db")


@pytest.fixture(scope="module")
def filled_file(tmp_path_factory: pytest.TempPathFactory, empty_file: Path) -> Path:
    """A filled database to copy, because filling one takes seconds."""
    path = Path(shutil.copy(empty_file, tmp_path_factory.mktemp("filled") / "relay.db"))

    async def make() -> None:
        store = await open_store(url_of(path), ReversingCipher(), now=NOW)
        await fill(store)
        await store.close()

    asyncio.run(make())
    return path


@pytest.fixture
async def filled(filled_file: Path, tmp_path: Path, open_again: Callable[..., Awaitable[Store]]) -> Store:
    shutil.copy(filled_file, tmp_path / "relay.db")
    return await open_again(search_keys=("deal",))


@pytest.fixture(params=["without statistics", "with statistics"])
async def explaining(request: pytest.FixtureRequest, filled: Store) -> Any:
    """A connection to a filled database."""
    if request.param == "with statistics":
        await execute(filled, "ANALYZE")
    with closing(sqlite3.connect(filled.database.path)) as connection:
        yield connection


def test_the_plan_of_every_hot_statement(explaining: sqlite3.Connection) -> None:
    bad: dict[str, list[str]] = {}
    for case in CATALOGUE:
        sql = compiled(case.statement)
        plan = plan_of(explaining, sql)
        assert plan or "INSERT" in sql, case.name
        steps = [step for step in plan if step not in case.harmless]
        found = problems(steps, page=is_page(sql), walks=case.walks, sorts=case.sorts)
        if found:
            bad[case.name] = plan
    assert bad == {}


def test_later_page_of_a_filter_begins_at_its_cursor(explaining: sqlite3.Connection) -> None:
    """Rather than at the filter's newest row."""
    pages = [
        (case.name, next(step for step in plan_of(explaining, compiled(case.statement)) if step.startswith("S")))
        for case in CATALOGUE
        if re.match(r"(jobs|events|deliveries|audit|incidents|groups) by .*, cursor", case.name)
        and not (case.walks or "event_id" in case.name)  # few rows, sorted
    ]
    by_key = r"(?<![\w,])(?:id|uid|job_uid|recorded_at)<\?"  # of an index without the filter, or beside an equality
    assert len(pages) > 60
    assert [one for one in pages if not re.search(rf"\(\w+(?:,\w+)+\)<\(|{by_key}", one[1])] == []


@pytest.mark.parametrize("count", [1_000, pytest.param(scaled(50_000, 300_000), marks=pytest.mark.verify)])
async def test_the_plan_of_every_hot_statement_is_the_same_at_any_size(store: Store, count: int) -> None:
    for statement in (*filling(count, empty_bytes="x'7b7d'"), "ANALYZE"):
        await execute(store, statement)
    with closing(sqlite3.connect(store.database.path)) as connection:
        bad: dict[str, list[str]] = {}
        for case in CATALOGUE:
            sql = compiled(case.statement)
            plan = plan_of(connection, sql)
            steps = [step for step in plan if step not in case.harmless]
            if problems(steps, page=is_page(sql), walks=case.walks, sorts=case.sorts):
                bad[case.name] = plan
    assert bad == {}


# --- all that is ever executed


def test_every_index_serves_a_statement(explaining: sqlite3.Connection) -> None:
    """An index that no plan of the catalogue uses costs every write for nothing."""
    named = {
        word
        for case in CATALOGUE
        for step in plan_of(explaining, compiled(case.statement))
        for word in re.findall(r"USING (?:COVERING )?INDEX (\w+)", step)
    }
    made = [row[0] for row in explaining.execute("SELECT name FROM sqlite_master WHERE type = 'index'")]
    elsewhere: Mapping[str, str] = {
        "ix_audit_action_id": "a page of the audit",
        "ix_audit_actor_id": "a page of the audit",
        "ix_audit_ends": "whether what the audit says has begun has ended",
        "ix_audit_id": "a page of the audit",
        "ix_callback_hosts_used_at": "deletes old hosts",
        "ix_jobs_captured": "the encryption keys in use, at the start of a node",
        "ix_jobs_status_url": "the same of addresses",
        "ix_secrets_owner": "the secrets of an owner",
        "ix_subscriptions_listed": "a page of subscriptions",
        "ix_subscriptions_owner": "a page of an account's subscriptions",
        "uq_subscriptions_callback": "the callback subscription of a URL",
    }
    unused = {name for name in made if name.startswith(("ix_", "uq_"))} - named - set(elsewhere)
    assert unused == set()


def named_statements() -> dict[str, Any]:
    """The statements of the catalogue that a module of the store names, by `module.NAME`."""
    named: dict[str, Any] = {}
    for module in [one for name, one in sys.modules.items() if name.startswith("relay.store.")]:
        for name, value in vars(module).items():
            values = value.values() if isinstance(value, dict) else (value,)
            if name.isupper() and any(one is case.statement for one in values for case in CATALOGUE):
                source = Path(str(module.__file__)).read_text(encoding="utf-8")
                if re.search(rf"^{name}\b|^\w+, {name} =", source, re.MULTILINE):
                    named[f"{module.__name__}.{name}"] = source
    return named


def test_every_hot_statement_is_described() -> None:
    named = named_statements()
    assert len(named) > 100
    undescribed = []
    for name, source in named.items():
        assigned = re.search(rf"(.*)\n(?:\w+, )?{name.rpartition('.')[2]}\b.*=", source)
        if assigned is None or not assigned[1].startswith("# "):
            undescribed.append(name)
    assert undescribed == []
