"""No hot query reads more than it needs: every statement is explained, with statistics and without.

Two checks: the catalogue of statements by name (`tests/support/store_catalogue.py`), and a listener that explains
everything executed by a run through every method of the store, so that no new statement is missed. Statements that may
read a whole table are listed here, with the reason.
"""

import asyncio
import inspect
import re
import shutil
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from relay.core.access.audit import CUT, AuditRecord
from relay.core.deliveries.bundles import Bundle, Room
from relay.core.deliveries.credentials import SinkCredential
from relay.core.deliveries.replay import ReplayRequest
from relay.core.erasure import ErasureRequest
from relay.core.figures import NAMES, Tally, rows_of
from relay.core.jobs.connect_accounts import ConnectAccount
from relay.core.jobs.job import Problem, Progress
from relay.core.records import AccountNews, AccountState, ListingRecord, PollNote, SavedStatistics, SubscriptionRoom
from relay.core.subscriptions.declared import Change
from relay.core.subscriptions.subscription import Consent
from relay.store.databases import statements
from relay.store.databases.pages import encode_cursor
from relay.store.databases.sqlite import url_of
from relay.store.databases.statements import Sql
from relay.store.jobs import group_work
from relay.store.jobs.intents import IN_FLIGHT_SECONDS
from relay.store.store import Store, open_store
from tests.support.pull_kit import SUB, Program
from tests.support.scale import scaled
from tests.support.store_catalogue import CATALOGUE, filling, is_page
from tests.support.store_kit import (
    NOW,
    ReversingCipher,
    attempt,
    callback_for,
    claim,
    deliver_all,
    execute,
    intent,
    job_event,
    lease,
    poll,
    publication,
    registration,
    relay_event,
    result_of,
    seen,
    session,
    subscription,
    together,
    track,
)

HARMLESS_SCANS = re.compile(
    r"SCAN (?:"
    r"\w+ VIRTUAL TABLE INDEX \d+:"  # the members of a JSON list that came as a parameter
    r"|CONSTANT ROW|\d+ CONSTANT ROWS?"
    r"|member|due(?:_\d)?|found|oldest|counted"  # the rows that a subquery found, which is explained by itself
    r"|pending"  # the recursion over subscriptions, one seek a step
    r"|\(subquery-\d+\)"  # the rows that a subquery found, which is explained by itself
    r")$"
)
ORDERED_WALK = re.compile(r"SCAN \w+ USING (?:COVERING )?INDEX \w+$")
# A page whose filter is the condition of a partial index goes along that index: it holds no other rows.
FILTERED_WALK = re.compile(
    r"SCAN \w+ USING (?:COVERING )?INDEX "
    r"(?:ix_jobs_(?:open|closed)_uid|ix_groups_open|ix_deliveries_(?:pending|dead|cancelled|uncertain|skipped)|ix_replays_running|ix_subscriptions_listed|"
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


@dataclass
class MayScan:
    """Statements of the run that may read a whole table or sort; each entry must be needed."""

    pattern: str
    reason: str
    needed: bool = field(default=False)


def exceptions() -> list[MayScan]:
    return [
        MayScan(r"DELETE FROM attempts WHERE position IN", "the oldest of them, along the table"),
        MayScan(
            r"UPDATE deliveries SET lease_token = :token",
            "sorts what was found by index, see `claim: take` and `probe: take the oldest`",
        ),
        MayScan(r"SELECT DISTINCT job_uid FROM pending", "of those that are counted, see `pull: lag`"),
        MayScan(r"SELECT DISTINCT subscription_id FROM \(", "of what is under a lease, found by index"),
        MayScan(r"FROM subscriptions\s+WHERE callback = 0$", "the book, without callbacks: once after each change"),
        MayScan(
            r"subscriptions.config\s+FROM subscriptions\s+WHERE callback = 0 AND",
            "the filters of an owner, when one of its subscriptions gets others",
        ),
        MayScan(r"COUNT\(\*\) FROM subscriptions WHERE callback = 0 AND", "those of one token, when it makes another"),
        MayScan(r"^\s*SELECT EXISTS \(SELECT 1 FROM versions", "whether there is any callback: the first row that is"),
        MayScan(r"FROM subscriptions ORDER BY .* DESC\n? LIMIT", "a page with callbacks: the table in its order"),
        MayScan(r"SELECT DISTINCT subscription_id FROM deliveries WHERE event_id", "where one job's events went"),
        MayScan(r"job_uid IS NOT NULL AND position \+ 0 > :after", "the events of one job by two indexes, sorted"),
        MayScan(r"FROM hazards\s+WHERE source = :source ORDER BY", "what was learned of one source, sorted"),
        MayScan(r"FROM secrets\s+WHERE secrets.owner != . ORDER BY", "all secrets: with all subscriptions"),
        MayScan(
            r"FROM secrets\s+WHERE secrets.owner (?:= \?|IN \([\s\S]*\)) ORDER BY",
            "the few secrets of some owners, sorted",
        ),
        MayScan(r"FROM accounts$", "all accounts: one row for each that was ever in trouble"),
        MayScan(r"FROM accounts\s+WHERE accounts.key_ciphertext IS NOT NULL", "the adopted ones of the few accounts"),
        MayScan(r"UPDATE accounts SET listed_at = NULL", "the few accounts, once a minute"),
        MayScan(r"FROM connect_accounts LEFT OUTER JOIN", "a page without a filter, or by state: most are in one"),
        MayScan(r"UPDATE accounts SET holder = NULL", "the few accounts, when a node ends"),
        MayScan(r"SELECT source, account, COUNT\(\*\)", "numbers of open jobs: a walk along their index"),
        MayScan(r"SELECT id, CASE WHEN state <> 'enabled'", "the subscriptions that are held up, once a minute"),
        MayScan(r"UPDATE replays SET holder = NULL", "those that are running, at the start of a node"),
        MayScan(r"AS owner FROM replays", "how many are running: a hundred at most"),
        MayScan(r"SELECT DISTINCT job_uid, subscription_id FROM deliveries WHERE replay", "what is on its way, sorted"),
        MayScan(r"UPDATE idempotency_keys SET held_until = NULL", "at the start of a node"),
        MayScan(r"UPDATE sink_memories SET token = NULL", "at the start of a node"),
        MayScan(r"UPDATE intents SET reason = 'cut_off'", "at the start of a node"),
        MayScan(r"FROM jobs ORDER BY jobs.uid DESC\n? LIMIT", "a page of jobs without a filter"),
        MayScan(r"INSERT INTO streams", "the streams of one call, sorted: a row lock each, in one order"),
        MayScan(r"FROM groups ORDER BY groups.id DESC\n? LIMIT", "a page of groups without a filter"),
        MayScan(r"FROM groups\s+WHERE (?:.+ AND )?finished_at IS NOT NULL ORDER BY", "a page of groups: most finished"),
        MayScan(r"FROM groups\s+WHERE groups.name = \? ORDER BY", "the groups of one name, sorted"),
        MayScan(r"FROM events ORDER BY events.recorded_at DESC", "a page of events without a filter"),
        MayScan(r"FROM events ORDER BY events.position DESC", "the newest position"),
        MayScan(r"ON events.id = deliveries.event_id ORDER BY", "a page of deliveries without a filter"),
        MayScan(r"COUNT\(\*\) AS number, MIN\(created_at\)", "groups of the newest deliveries, so many at most"),
        MayScan(r"SELECT kind, COUNT\(\*\) AS number FROM incidents", "the open ones by kind, once a minute"),
        MayScan(r"FROM figures\s+WHERE name = :name", "a series of at most a hundred subscriptions, summed"),
        MayScan(r"FROM audit\s+WHERE\s+NOT \(audit", "a page of the audit without a filter"),
        MayScan(r"SELECT number, mac FROM audit ORDER BY number DESC LIMIT 1", "the last entry"),
        MayScan(r"FROM \(SELECT id FROM deliveries ORDER BY id DESC LIMIT", "how many there are of those, at most"),
    ]


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
            writes.append(store.jobs.record(poll(one.uid, 0, *kinds, outcome="failed" if ended else None)))
        await together(store, *writes)
    await deliver_all(store, "sub_2")
    for nth, one in enumerate(await claim(store, "sub_1", 300)):
        await store.deliveries.record_attempt(result_of(one, ("delivered", "dead", "pending")[nth % 3], due_at=NOW + 5))
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
        (case.name, plan_of(explaining, compiled(case.statement))[0])
        for case in CATALOGUE
        if re.match(r"(jobs|events|deliveries|audit|incidents|groups) by .*, cursor", case.name)
        and not (case.walks or "event_id" in case.name)  # few rows, sorted
    ]
    by_key = r"(?<![\w,])(?:id|uid|job_uid|recorded_at)<\?"  # of an index without the filter, or beside an equality
    assert len(pages) > 60
    assert [one for one in pages if not re.search(rf"\(\w+(?:,\w+)+\)<\(|{by_key}", one[1])] == []


@pytest.mark.parametrize("count", [1_000, scaled(50_000, 300_000)])
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


class Recorder:
    """Every statement that an engine executes or passes to its driver, with its first parameters."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[str, Any] = {}
        engine = store.database._engine
        assert engine is not None
        sqlalchemy_event.listen(engine, "before_cursor_execute", self._note)
        driven = statements._driven

        def noting(connection: Connection, statement: Sql | str, parameters: Any) -> sqlite3.Cursor:
            first = parameters if isinstance(parameters, dict) else parameters[0]
            self.seen.setdefault(statements._lite(statement), first)
            return driven(connection, statement, parameters)

        monkeypatch.setattr(statements, "_driven", noting)

    def _note(
        self, connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        self.seen.setdefault(statement, parameters[0] if executemany else parameters)


async def use_handshakes(store: Store) -> None:
    made = await store.subscriptions.create(subscription("sub_6"), SubscriptionRoom("token:1", fewer_than=1))
    await store.handshakes.await_consent(made, NOW)
    await store.handshakes.pending(after=(0.0, ""), count=10)
    await store.handshakes.take_turn(made.id, NOW, NOW + 60)
    consent = Consent(origin="relay.example", at=NOW)
    await store.handshakes.end_turn(made.id, NOW + 60, NOW, "agreed", consent, None)


async def use_declared(store: Store) -> None:
    changed = await store.subscriptions.create(subscription("sub_8"))
    removed = await store.subscriptions.create(subscription("sub_9a"))
    changes = [
        Change(id="crm", action="add", after=subscription("crm")),
        Change(id=changed.id, action="change", before=changed, after=replace(changed, ordering="none"), new_secret="s"),
        Change(id=removed.id, action="remove", before=removed),
    ]
    room = SubscriptionRoom("token:2", fewer_than=10)
    await store.subscriptions.apply(changes, NOW, secrets_expire_at=NOW + 60, room=room)
    await store.subscriptions.pending(changes[0].id)


async def use_memories(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_7"))
    await store.jobs.record(poll(await track(store, "remembered"), 0, "failed"))
    (one,) = await claim(store, "sub_7")
    for _ in range(2):
        turn = await store.memories.take(one, "incident/inc_1", NOW, NOW)
        await store.memories.free_all()
    assert turn is not None
    await store.memories.keep(turn, {}, NOW)
    await store.deliveries.record_attempt(result_of(one, turn=turn, remember={}))
    await store.memories.free([turn], NOW)
    await store.upkeep.delete_memories(NOW + 1)
    await store.upkeep.delete_shared_memories(NOW + 1)


async def read_group_work(store: Store) -> None:
    """Whole, and as a group too large for that."""
    await store.group_work.read("revor", "default", "q4", since=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_work, "OPEN_READ", 0)
        await store.group_work.read("revor", "default", "q4", since=0.0)


async def use_pulls(store: Store) -> None:
    """Claims, acknowledgements, nacks and ends of leases, with followers and manual deliveries."""
    of = replace(SUB, types=("pulled",))
    await store.subscriptions.create(of)
    uid = await track(store, "pulled")
    events = [replace(job_event(uid, nth), type="pulled") for nth in range(1, 7)]
    await store.jobs.record(poll(uid, 0, *["running"] * 6, events=events))
    program = Program(store, of)
    first = await program.pull(4)
    await program.ack(first[0])
    await program.nack(first[2], delay_seconds=0)
    await program.give_back(first[1])
    second = await program.pull(lease_seconds=1)
    program.now += 2
    assert await program.pulls.ended() == [of.id]
    assert await program.pull()
    await program.ack(*second)
    await store.deliveries.retry(first[0].id, NOW)
    await program.ack(*await program.pull())
    await store.pulls.lag(of.id)
    await store.pulls.arrivals([of.id])
    await store.pulls.subscriptions(100)


async def use_groups(store: Store) -> None:
    """Two rounds of a group, its last job erased, and retention."""
    uid = await track(store, "grouped", group="q4", group_size=1)
    await store.jobs.untrack(uid, NOW)
    await track(store, "grouped", tracked_at=NOW + 1)
    (group,) = await store.groups.find("q4")
    await store.groups.get(group.id)
    await store.groups.close(group, 2, NOW + 1)
    await read_group_work(store)
    await store.jobs.untrack(uid, NOW + 2)
    await store.groups.finish_settled(NOW + 1e6)
    for filters in ({}, {"state": "open"}, {"state": "finished"}, {"account": "default"}, {"source": "revor"}):
        await store.groups.page(limit=1, **filters)  # type: ignore[arg-type]
        await store.groups.page(limit=1, cursor=encode_cursor(group.id), **filters)  # type: ignore[arg-type]
    await store.jobs.page(limit=1, group="q4")
    await store.upkeep.delete_groups(NOW + 1e6)
    await store.jobs.purge(uid, NOW)


async def use_search(store: Store) -> None:
    for deal in (42, 43):
        await store.jobs.register(registration("found", metadata={"deal": deal}))
    every: dict[str, Any] = {
        **{"status": "failed", "open": True, "source": "revor", "account": "default", "group": "q4"},
        **{"channel": "email", "connect_account": "acc_1", "metadata": ("deal", "43"), "since": NOW, "until": NOW + 1},
    }
    await store.jobs.page(limit=1, **every)
    for name, value in every.items():
        await store.jobs.page(limit=1, **{name: value})
        await store.jobs.page(limit=1, **{name: value, "status": "failed"})


async def use_incidents(store: Store) -> None:
    filters = ({"not": {"exact": {"channel": "email"}}},)
    chat = subscription("sub_chat", incidents="collapse", types=("ai.revor.job.failed",), filters=filters)
    await store.subscriptions.create(chat)
    for n in range(4):
        made = (await store.jobs.register(registration(f"fails {n}", connect_account_id="acc_1"))).job.uid
        failed = seen("failed", problem=Problem(code="code", message=""))
        await store.jobs.record(poll(made, 0, "failed", seen=failed, outcome="failed"))
    bound = store.within(("revor", "default")).incidents
    for view, given in ((store.incidents, {}), (store.incidents, {"state": "open"}), (bound, {"state": "closed"})):
        await view.page(limit=1, **given)
        await view.page(limit=1, cursor=encode_cursor("inc_01"), **given)
    ((incident, _, _),) = (await bound.page(limit=1)).items
    assert await bound.get(incident.id) is not None
    first = await store.incidents.jobs(incident, limit=1)
    await store.incidents.jobs(incident, limit=1, cursor=first.next_cursor)
    await store.incidents.open_counts()
    await store.incidents.review(NOW + 90_000)


async def use_audit(store: Store) -> None:
    number = await store.audit.append(AuditRecord(at=NOW, action="x.y", result="started"))
    await store.audit.append(AuditRecord(at=NOW, action="x.y", ends=number))
    await store.audit.page(limit=1)
    await store.audit.head()
    await store.audit.cut(AuditRecord(at=NOW, action=CUT, times=1))
    assert [one async for one in store.audit.entries()]


async def use_connect_accounts(store: Store) -> None:
    known = await store.connect_accounts.known("revor", "default")
    one = ConnectAccount(source="revor", account="default", id="a", state="ok", since=NOW, told_state="ok")
    event = AccountNews(account=one, kind="added", event=relay_event())
    record = ListingRecord(known=known, now=NOW, changed=(one,), forgotten=("b",), news=(event,))
    assert await store.connect_accounts.record(record)
    await store.connect_accounts.open_jobs("revor", "default", ["a"])
    for filters in ({}, {"state": "ok"}, {"source": "revor", "account": "default"}):
        first = await store.connect_accounts.page(limit=1, **filters)
        await store.connect_accounts.page(limit=1, cursor=first.next_cursor, **filters)
    await store.within(("revor", "default")).connect_accounts.page(limit=1)


async def use_sessions(store: Store) -> None:
    """Makes sessions, finds them and ends them."""
    await store.sessions.create(session("a link", kind="link"))
    assert await store.sessions.use_link("a link", session("a session"))
    await store.sessions.find("a session", "session", NOW)
    await store.sessions.delete("a session")


async def run_everything(store: Store) -> None:
    """Calls every method of the store."""
    await use_audit(store)
    await use_incidents(store)
    await use_declared(store)
    await use_sessions(store)
    uid = await track(store, "one")
    sub = await callback_for(store, "https://callback.example/2", "sub_9", NOW)
    with_event = registration("two", callback_subscription_id=sub)
    await store.jobs.register_many([with_event, registration("one", metadata={"a": 1}, callback_subscription_id=sub)])
    await store.jobs.record(poll(uid, 0, "queued", lease=lease("sub_1", sub)))
    await store.jobs.record(poll(uid, 1, "overdue", seen=None, progress=Progress(sequence=2, overdue=True)))
    await store.jobs.note(PollNote(job_uid=uid, next_poll_at=NOW + 5, polled_at=NOW))
    await store.jobs.register(registration("one", callback_subscription_id=sub))
    await store.jobs.get(uid)
    await store.jobs.recipient(uid)
    await store.jobs.find("one", "revor", "default")
    await store.jobs.open_jobs("revor", "default")
    await store.jobs.ask_for_poll((await store.jobs.find("one"))[0])
    await store.jobs.opened_since("job_01")
    await store.jobs.accounts_past_deadline([("revor", "default")], NOW + 1e9)
    await store.jobs.past_deadline("revor", "default", NOW + 1e9)
    await store.jobs.open_counts()
    for filters in ({}, {"status": "failed"}, {"open": True}, {"open": False}, {"account": "default"}, {"source": "x"}):
        first = await store.jobs.page(limit=1, **filters)  # type: ignore[arg-type]
        await store.jobs.page(limit=1, cursor=first.next_cursor, **filters)  # type: ignore[arg-type]
    await use_search(store)
    published = [publication(str(n), key=key) for n, key in enumerate(("a", "a", "b", None))]
    await store.published.record(published)
    await store.published.record(published)
    await store.events.record(relay_event())
    (_, one), *_ = (await store.events.tail(0)).events
    await store.events.get(one.id)
    await store.events.position_of(one.id)
    await store.events.newest_position()
    await store.events.of_job(uid)
    for filters in ({}, {"type": one.type}, {"subject": "a"}, {"since": NOW}, {"until": NOW + 1}):
        found = await store.events.page(limit=1, **filters)  # type: ignore[arg-type]
        await store.events.page(limit=1, cursor=found.next_cursor, **filters)  # type: ignore[arg-type]

    await use_groups(store)
    await use_pulls(store)
    await store.deliveries.backlog()
    await store.deliveries.pending()
    for of_subscription in ((), ("sub_1",)):
        await store.deliveries.skipped(*of_subscription)
        await store.within(("revor", "default")).deliveries.skipped(*of_subscription)
    await store.deliveries.uncertain()
    held = list(await claim(store, "sub_1", 5, now=NOW + 9))
    await store.deliveries.release(held[:1], NOW)
    await store.deliveries.record_attempt(result_of(held[1], attempt=attempt(), next_lease=lease()))
    await store.deliveries.record_attempt(
        result_of(held[2], "pending", due_at=NOW, disable="410", events=(relay_event(),))
    )
    await store.deliveries.record_attempt(result_of(held[3], "dead"))
    limits = Bundle(max_events=20, wait_seconds=0.0, max_bytes=1_000_000)
    for priority in (0, 1, 2):
        claims = await store.deliveries.claim_bundle("sub_1", (priority,), limits, Room(), 3, NOW + 9, lease())
        for members in claims.requests:
            refused = [result_of(one, "pending", now=NOW + 9, due_at=NOW + 9, alone=True) for one in members]
            await store.deliveries.record_bundle(refused)
    claims = await store.deliveries.claim_bundle("sub_1", (0, 1, 2), limits, Room(), 3, NOW + 9, lease())
    assert len(claims.requests) > 1
    await store.deliveries.release([one for members in claims.requests for one in members], NOW + 9)
    await execute(store, "UPDATE subscriptions SET probe_at = 0 WHERE id = 'sub_1'")
    for state in ("pending", "delivered"):
        probe = (await store.deliveries.claim_probe("sub_1", NOW, lease(until=NOW))).claimed
        assert probe is not None
        await store.deliveries.record_attempt(result_of(probe, state, due_at=NOW, probe_at=NOW))
    await store.deliveries.claim_probe("sub_1", NOW, lease())
    await store.deliveries.expedite("sub_1", NOW - 9)
    await store.events.adopt_restored()
    await store.subscriptions.find_changes()
    await store.deliveries.demote("sub_1", NOW)
    await store.deliveries.retry(held[3].id, NOW)
    for fate in ("sent", "not_sent"):
        await execute(store, "UPDATE deliveries SET state = 'uncertain' WHERE id = :id", id=held[3].id)
        await store.deliveries.settle(held[3].id, fate, NOW)  # type: ignore[arg-type]
    await store.deliveries.get(held[3].id)
    await store.deliveries.claim_due("sub_1", (0, 1, 2), 3, NOW, lease())
    blocked = (await store.deliveries.page(limit=500, state="pending", subscription_id="sub_1")).items
    await store.deliveries.get(next(row for row in blocked if row.next_attempt_at is None).id)
    await store.deliveries.release_all(NOW)
    for filters in ({}, {"state": "pending"}, {"state": "dead"}, {"state": "uncertain"}, {"subscription_id": "sub_1"}):
        listed = await store.deliveries.page(limit=1, **filters)  # type: ignore[arg-type]
        await store.deliveries.page(limit=1, cursor=listed.next_cursor, **filters)  # type: ignore[arg-type]

    for chosen in ({}, {"state": "dead"}, {"state": "pending"}, {"subscription_id": "sub_1"}, {"event_id": one.id}):
        await store.deliveries.groups(["reason", "day"], limit=5, **chosen)  # type: ignore[arg-type]

    await store.subscriptions.create(subscription("sub_5", start_at=NOW))
    await store.subscriptions.continue_filling()
    for ordering in ("none", "job"):
        await store.subscriptions.replace(subscription("sub_5", ordering=ordering), NOW)
    await store.subscriptions.set_state("sub_5", "paused", NOW)
    (fifth,) = await store.subscriptions.some(["sub_5"])
    await store.subscriptions.replace(replace(fifth, filters=({"cel": "true"},)), NOW)
    await store.subscriptions.hold_unreadable(await store.subscriptions.some(["sub_5"]), NOW)
    await store.subscriptions.replace(replace(fifth, filters=({"exact": {"type": "none"}},)), NOW)
    await store.subscriptions.set_state("sub_5", "enabled", NOW)
    await store.subscriptions.set_sink_health("sub_5", failing_since=NOW, paused_until=None)
    await store.subscriptions.set_sink_health("sub_5", failing_since=NOW, paused_until=NOW, paused_with_it=["sub_1"])
    await store.subscriptions.failing()
    await store.secrets.add_secret("sub_5", "whsec_1", NOW, old_expire_at=NOW)
    await store.secrets.of("sub_5")
    await store.subscriptions.all()
    await store.subscriptions.some(["sub_1", "sub_5"])
    await store.subscriptions.get("sub_5")
    for callbacks in (False, True):
        shown = await store.subscriptions.page(limit=1, callbacks=callbacks)
        await store.subscriptions.page(limit=1, cursor=shown.next_cursor, callbacks=callbacks)
    await use_handshakes(store)
    await store.subscriptions.remove("sub_5", NOW)

    filtered = subscription("sub_filtered", filters=({"not": {"exact": {"channel": "email"}}},))
    await store.subscriptions.create(filtered)
    replayed = (("all", "sub_1", None), ("dead", None, "x"), ("undelivered", sub, None), ("all", filtered.id, None))
    for number, (only, subscription_id, reason) in enumerate(replayed):
        wanted = ReplayRequest(
            id=f"rpl_{number}",
            subscription_id=subscription_id,
            only=only,
            reason=reason,
            since=NOW - 1e6,
            until=NOW + 1e6,
            now=NOW,
        )
        await store.replays.count(wanted)
        await store.replays.create(wanted)
        await store.replays.due("node 1", NOW)
        await store.replays.advance(wanted.id, "node 1", NOW)
        await store.replays.get(wanted.id)
    manual = await claim(store, "sub_1", 5, priorities=(2,), now=NOW + 9)
    await store.deliveries.record_attempt(result_of(manual[0], now=NOW + 9))
    blocked = (await store.deliveries.page(limit=500, state="pending", subscription_id="sub_1")).items
    for waiting in blocked:
        if waiting.next_attempt_at is None:
            await store.deliveries.get(waiting.id)
    await store.replays.free_all()
    await store.replays.advance("rpl_0", "node 2", NOW)
    await store.replays.stop("rpl_0", NOW)

    await store.idempotency.begin("key", "digest", "holder", NOW, 0.0)
    await store.idempotency.begin("key", "digest", "holder", NOW + 5, NOW + 1)
    await store.idempotency.renew("key", "holder", NOW)
    await store.idempotency.end("key", "holder", 200, b"{}", {})
    await store.idempotency.forget("key", "holder")
    await store.idempotency.free_all()
    now = NOW + 2 * IN_FLIGHT_SECONDS
    first, second, third = (intent(sent_at=NOW + n, idempotency_key="key") for n in range(3))
    for one in (first, second, third):
        await store.intents.begin(one)
    await store.intents.unknown(first.id, "server_error", 502)
    shown = await store.intents.page(limit=1, now=NOW)
    await store.intents.page(limit=1, cursor=shown.next_cursor, now=now)
    assert await store.intents.count_unknown(now) > 1
    await store.intents.all_cut_off()
    assert await store.intents.get(first.id) is not None
    for one in await store.intents.unreported(now, 2):
        await store.intents.report(one, relay_event("relay.create.unknown", subject=one.id))
    await store.intents.resolve(first.id, "not_sent", now)
    await store.intents.dismiss(second.id, now)
    await store.intents.end(third.id)
    await store.jobs.register(registration("made by a create", intent=intent(idempotency_key="key")))
    await store.accounts.set(AccountState(source="revor", name="default"), relay_event())
    await store.accounts.all()
    assert await store.accounts.hold("revor", "default", "node 1", NOW, NOW + 15)
    for holder in (None, "node 1"):
        assert await store.accounts.save_plan("revor", "default", {"price": 1.0}, holder)
    await store.accounts.plan("revor", "default")
    await store.accounts.adopt("revor", "key-1", "its key")
    await store.accounts.adopted()
    await store.holders.release_accounts(["node 1"])
    await use_connect_accounts(store)
    await use_memories(store)
    await store.learned.save([SavedStatistics(source="revor", name="a", event_count=1.0, values="{}")], NOW)
    await store.learned.load("revor")
    await store.learned.find("revor", ["a"])

    tally = Tally()
    for seconds in (1.0, 9.0):
        tally.add("attempt_seconds", "sub_1", NOW, seconds)
        tally.add("jobs_open", "revor/default", NOW, seconds)
        await store.figures.add(rows_of(tally.take(100)))
    for label in ("", "sub_1"):
        await store.figures.series(NAMES, label, "hour", NOW)
        await store.within(("revor", "default")).figures.series(NAMES, label, "hour", NOW)

    while await store.upkeep.delete_idempotency_keys(NOW + 1e6):  # the file was filled with some that nobody can read
        pass
    await store.jobs.register(registration("erased", metadata={"email": "a@b.c"}))
    for request in (ErasureRequest(name="email", value="a@b.c"), ErasureRequest(job="two")):
        cursor, steps = None, 0
        while steps == 0 or cursor is not None:
            cursor, steps = (await store.erasure.step(request, cursor, now)).next_cursor, steps + 1

    await store.events.tail_of_job(uid, 0, 10)
    await store.secrets.own_secrets()
    await store.secrets.ensure_secret("signing", "a key", now)
    await store.credentials.refresh_turn("sub_1", "crd_1", used=None, now=now, until=now + 1)
    await store.credentials.keep_credential("sub_1", SinkCredential(id="crd_1", origin="https://x", fields={}))
    await store.credentials.pause_refresh("sub_1", now)

    bound = store.within(("revor", "default"))
    await bound.subscriptions.create(subscription("sub_own", start_at=0.0))
    await bound.subscriptions.all()
    for part in (bound.jobs, bound.events, bound.deliveries):
        first = await part.page(limit=1)
        await part.page(limit=1, cursor=first.next_cursor)
    await bound.subscriptions.page(limit=1, cursor=None)
    await bound.deliveries.uncertain()
    for options in ({}, {"state": "dead"}, {"state": "pending"}, {"subscription_id": "sub_own"}, {"event_id": "evt_1"}):
        await bound.deliveries.groups(["reason"], limit=9, **options)
    await bound.intents.page(limit=1, now=now)

    await store.jobs.untrack(uid, NOW)
    await store.jobs.register(registration("one"))
    await store.jobs.purge(uid, NOW)
    await execute(store, "UPDATE deliveries SET state = 'blocked' WHERE id = (SELECT MAX(id) FROM deliveries)")
    await store.upkeep.promote_heads(NOW)
    await store.upkeep.promote_heads(NOW, ("job_01", "", -1))
    await execute(store, "DELETE FROM subscriptions WHERE id = 'sub_1'")
    assert (await store.upkeep.cancel_orphans(NOW))[0] > 0
    await store.upkeep.cancel_orphans(NOW, "sub_01")
    await store.upkeep.delete_events(NOW + 1)
    await store.upkeep.delete_attempts(NOW + 1)
    await store.upkeep.delete_jobs(NOW + 1)
    await store.upkeep.delete_search()
    await store.upkeep.delete_callbacks(NOW + 1)
    await store.upkeep.delete_callbacks(NOW + 1, "sub_01")
    await store.upkeep.delete_idempotency_keys(NOW)
    await store.upkeep.delete_callback_hosts(NOW)
    await store.upkeep.delete_replays(NOW + 1)
    await store.upkeep.delete_incidents(NOW + 1)
    await store.upkeep.delete_intents(NOW + 1)
    await store.upkeep.delete_figures(NOW + 1)
    await store.upkeep.delete_connect_accounts(NOW + 1)
    await store.upkeep.delete_streams(NOW + 1)
    await store.upkeep.delete_secrets(NOW + 1)
    await store.upkeep.delete_sessions(NOW + 1)
    await store.upkeep.give_back()


PARTS = (
    *("jobs", "events", "deliveries", "replays", "subscriptions", "idempotency", "intents", "accounts", "learned"),
    *("upkeep", "erasure", "groups", "group_work", "audit", "secrets", "credentials", "handshakes", "incidents"),
    *("connect_accounts", "memories", "published", "sessions", "figures"),
)


def note_calls(store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], set[str]]:
    """All public asynchronous methods, and those of them called from now on."""
    known: set[str] = set()
    called: set[str] = set()
    for part_name in PARTS:
        part = type(getattr(store, part_name))
        for name, method in inspect.getmembers(part, inspect.iscoroutinefunction):
            if not name.startswith("_"):
                known.add(f"{part_name}.{name}")

                def noting(
                    *values: Any, _method: Any = method, _label: str = f"{part_name}.{name}", **named: Any
                ) -> Any:
                    called.add(_label)
                    return _method(*values, **named)

                monkeypatch.setattr(part, name, noting)
    return known, called


@pytest.mark.parametrize("statistics", [False, True])
async def test_the_plan_of_everything_that_the_store_executes(
    filled: Store, statistics: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if statistics:
        await execute(filled, "ANALYZE")
    known, called = note_calls(filled, monkeypatch)
    recorder = Recorder(filled, monkeypatch)
    await run_everything(filled)
    assert known - called == set(), "run_everything does not call these"
    ours = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
    test_own = ("UPDATE deliveries SET state = 'blocked' WHERE id = (SELECT MAX(id)",)
    may_scan = exceptions()
    bad: dict[str, list[str]] = {}
    explained = 0
    with closing(sqlite3.connect(filled.database.path)) as connection:
        for statement, parameters in recorder.seen.items():
            if not ours.match(statement) or statement.startswith(test_own):
                continue
            plan = plan_of(connection, statement, parameters)
            explained += 1
            if not problems(plan, page=is_page(statement)):
                continue
            excused = [one for one in may_scan if re.search(one.pattern, statement)]
            for one in excused:
                one.needed = True
            if not excused:
                bad[statement] = plan
    assert bad == {}
    assert explained > 80
    if not statistics:
        assert [one.pattern for one in may_scan if not one.needed] == []


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
        "ix_callback_hosts_used_at": "deletes old hosts, see the run through the store",
        "ix_jobs_captured": "the encryption keys in use, at the start of a node",
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
