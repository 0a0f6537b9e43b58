"""The audit's table on both databases: append-only, one chain for all processes, verified from end to end."""

import asyncio
import sqlite3
from base64 import urlsafe_b64encode
from contextlib import closing

import asyncpg
import pytest
from structlog.testing import capture_logs

from relay.config.keyring import Keyring
from relay.core.access.audit import CUT, AuditRecord
from relay.errors import StoreError
from relay.node.audit import HOUR_SECONDS, AuditLog
from relay.store.access import audit as audit_store
from relay.store.access.audit import KEY_ID
from relay.store.store import Store
from tests.support.store_kit import NOW, subscription

DAY = 86_400.0
KEYS = [urlsafe_b64encode(letter * 32).decode() for letter in (b"a", b"b")]


class Node:
    """A process that writes to the audit."""

    def __init__(self, store) -> None:
        self.store, self.now = store, NOW
        self.log = AuditLog(store, clock=lambda: self.now, kept_days=365)

    async def write(self, count: int) -> None:
        for number in range(count):
            await self.log.record("x.y", actor="ops", number=number)
            self.now += 1

    async def entries(self):
        return [one async for one in self.store.audit.entries()]

    async def head(self):
        return await self.store.audit.head()


@pytest.fixture
def open_node(open_again):
    """Opens nodes on the test's database. A SQLite file has one at a time, so the one before is closed first."""
    opened = []

    async def open_one(*keys: str) -> Node:
        if opened and not opened[-1].database.shared:
            await opened[-1].close()
        opened.append(await open_again(Keyring(keys or KEYS[:1])))
        return Node(opened[-1])

    return open_one


async def tamper(database_url: str, *statements: str) -> None:
    """What somebody with all rights on the database, but without the key, can do."""
    if database_url.startswith("postgresql"):
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute("SET session_replication_role = replica")
            for statement in statements:
                await connection.execute(statement.replace("= x'", "= '\\x"))
        finally:
            await connection.close()
        return
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as connection:
        for name in ("audit_never_changes", "audit_is_kept"):
            connection.execute(f"DROP TRIGGER IF EXISTS {name}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


async def findings(node: Node, kept=None) -> list[tuple[str, int | None]]:
    verification = await node.log.verify(kept)
    return [(one.kind, one.number) for one in verification.findings]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'eve'",
        "UPDATE audit SET at = 0 WHERE number = 1",
        "DELETE FROM audit WHERE number = 2",
        "DELETE FROM audit",
    ],
)
async def test_the_database_refuses_to_change_or_remove_entries(open_node, statement):
    node = await open_node()
    await node.write(4)

    def execute(connection, _items):
        connection.exec_driver_sql(statement)
        return [None]

    with pytest.raises(StoreError, match="append-only"):
        await node.store.database.write(execute, None)
    assert await findings(node) == []
    assert len(await node.entries()) == 4


async def test_postgresql_refuses_to_empty_the_table(open_node):
    node = await open_node()
    if not node.store.database.shared:
        pytest.skip("SQLite has no TRUNCATE")
    await node.write(1)

    def execute(connection, _items):
        connection.exec_driver_sql("TRUNCATE audit")
        return [None]

    with pytest.raises(StoreError, match="append-only"):
        await node.store.database.write(execute, None)


async def test_entries_that_nodes_append_at_the_same_time_are_one_chain(open_node):
    """The first of them make the key, too."""
    first = await open_node()
    nodes = [first, await open_node()] if first.store.database.shared else [first]
    await asyncio.gather(*(node.write(10) for node in nodes for _ in range(10)))
    verification = await nodes[-1].log.verify()
    assert (verification.findings, verification.entry_count) == ([], 100 * len(nodes))
    assert verification.head == await first.head()


async def test_a_group_that_fails_leaves_no_gap(open_node):
    node = await open_node()
    await node.write(1)

    def broken(connection, items):
        raise StoreError("no")

    results = await asyncio.gather(
        *(node.write(1) for _ in range(5)), node.store.database.write(broken, None), return_exceptions=True
    )
    assert [type(one) for one in results] == [type(None)] * 5 + [StoreError]
    await node.write(1)
    assert (await findings(node), (await node.head()).number) == ([], 7)


async def test_an_entry_that_cannot_be_written_fails_alone(open_node):
    node = await open_node()
    await node.write(1)
    results = await asyncio.gather(
        *(node.write(1) for _ in range(3)),
        node.store.audit.append(AuditRecord(at=NOW, action="x.y", detail=b"\xff")),
        return_exceptions=True,
    )
    assert [type(one) for one in results] == [type(None)] * 3 + [UnicodeDecodeError]
    assert (await findings(node), (await node.head()).number) == ([], 4)


async def test_every_change_in_the_table_is_found_and_named(open_node, database_url):
    node = await open_node()
    await node.write(6)
    changes = {
        "UPDATE audit SET action = 'a.b' WHERE number = 3": [("changed", 3)],
        "UPDATE audit SET action = 'x.y' WHERE number = 3": [],
        "UPDATE audit SET number = -number WHERE number IN (2, 3)": [("missing", 2)],
        "UPDATE audit SET number = 5 + number WHERE number IN (-2, -3)": [("changed", 2), ("changed", 3)],
        "UPDATE audit SET number = -5 + number WHERE number IN (2, 3)": None,
        "UPDATE audit SET number = -number WHERE number < 0": [],
        "UPDATE audit SET times = 7 WHERE number = 6": [("changed", 6)],
        "UPDATE audit SET times = 1 WHERE number = 6": [],
        "UPDATE audit SET previous = x'00' WHERE number = 2": [("changed", 2)],
        "DELETE FROM audit WHERE number = 2": [("missing", 2)],
        "DELETE FROM audit WHERE number IN (4, 5)": [("missing", 2), ("missing", 4)],
    }
    for statement, expected in changes.items():
        await tamper(database_url, statement)
        if expected is not None:
            assert await findings(node) == expected, statement
    await node.write(1)
    assert await findings(node) == [("missing", 2), ("missing", 4)], "what follows is right"


async def test_a_cut_off_end_is_found_against_a_kept_head_only(open_node, database_url):
    node = await open_node()
    await node.write(5)
    kept = await node.head()
    assert await findings(node, kept) == []
    await tamper(database_url, "DELETE FROM audit WHERE number > 3")
    assert await findings(node) == []
    assert await findings(node, kept) == [("truncated", 4)]
    node.now += 100
    await node.write(3)
    assert await findings(node) == []
    assert await findings(node, kept) == [("changed", 5)]


async def test_retention_removes_the_oldest_and_the_rest_verifies_from_there(open_node, database_url, monkeypatch):
    monkeypatch.setattr(audit_store, "READ_AT_ONCE", 4)
    monkeypatch.setattr(audit_store, "REMOVE", audit_store.REMOVE.replace("LIMIT 200", "LIMIT 2"))
    node = await open_node()
    await node.write(7)
    node.now = NOW + DAY
    await node.write(2)
    assert await node.log.remove_old() == 0
    node.now = NOW + 366 * DAY
    assert await node.log.remove_old() == 7
    entries = await node.entries()
    assert [(one.number, one.record.action, one.record.times) for one in entries] == [
        (8, "x.y", 1), (9, "x.y", 1), (10, CUT, 7)
    ]  # fmt: skip
    assert await findings(node) == []
    assert await node.log.remove_old() == 0
    await tamper(database_url, "DELETE FROM audit WHERE number = 8")
    assert await findings(node) == [("missing", 8)]


async def test_a_removal_that_was_cut_off_is_ended_by_the_next(open_node):
    node = await open_node()
    await node.write(4)
    await node.store.audit.append(node.log.record_of(CUT, actor="relay", times=3))
    assert await findings(node) == []
    node.now = NOW + 366 * DAY
    await node.log.remove_old()
    assert [one.number for one in await node.entries()] == [6]
    assert await findings(node) == []


async def test_nodes_that_remove_old_entries_at_the_same_time_agree(open_node):
    first = await open_node()
    if not first.store.database.shared:
        pytest.skip("a SQLite file has one node at a time")
    second = await open_node()
    await first.write(9)
    first.now = second.now = NOW + 366 * DAY
    await asyncio.gather(first.log.remove_old(), second.log.remove_old(), first.write(3), second.log.verify())
    assert [one.record.action for one in await first.entries()].count("x.y") == 3
    assert await findings(second) == []


async def test_entries_that_another_node_removes_meanwhile_are_not_missing(open_node, monkeypatch):
    monkeypatch.setattr(audit_store, "READ_AT_ONCE", 2)
    node = await open_node()
    await node.write(6)
    batches = node.store.audit.batches

    async def meanwhile():
        begun = False
        async for batch in batches():
            yield batch
            if not begun:
                begun = True
                await node.store.audit.cut(node.log.record_of(CUT, actor="relay", times=5))

    monkeypatch.setattr(node.store.audit, "batches", meanwhile)
    assert await findings(node) == []


async def test_an_entry_made_old_by_hand_is_not_removed(open_node, database_url):
    node = await open_node()
    await node.write(3)
    await tamper(database_url, "UPDATE audit SET at = 0, id = 'aud_0' || number WHERE number <= 2")
    assert await node.log.remove_old() == 0
    assert await findings(node) == [("changed", 1), ("changed", 2)]


async def test_upkeep_logs_the_head_and_removes_old_entries_hourly(open_node):
    node = await open_node()
    await node.write(2)

    async def heads() -> list[str]:
        with capture_logs() as lines:
            await node.log.run_once()
        return [line["head"] for line in lines if line["event"] == "audit_head"]

    head = str(await node.head())
    assert await heads() == [head]
    node.now += HOUR_SECONDS - 3
    assert await heads() == []
    node.now += 3
    assert await heads() == [head]
    node.now = NOW + 366 * DAY
    assert await heads() == [head]
    assert [one.record.action for one in await node.entries()] == [CUT]
    node.now = NOW
    assert len(await heads()) == 1, "the clock was set back"


async def test_a_secret_that_somebody_chose_is_no_key_of_the_audit(open_node, database_url):
    """Every subscription has a secret in the same table, encrypted by the relay, and its owner knows it."""
    node = await open_node()
    await node.write(1)
    await node.store.secrets.add_secret("sub_1", "ab" * 32, NOW)
    await tamper(
        database_url,
        f"DELETE FROM secrets WHERE id = '{KEY_ID}'",
        f"UPDATE secrets SET owner = 'audit', id = '{KEY_ID}' WHERE owner = 'sub_1'",
    )
    assert await findings(node) == [("key_missing", None)]
    again = await open_node()
    with pytest.raises(StoreError, match="the key of the audit cannot be read: the secret of audit_key was modified"):
        await again.write(1)


async def test_a_key_that_was_removed_is_found(open_node, database_url):
    node = await open_node()
    await node.write(2)
    await tamper(database_url, f"DELETE FROM secrets WHERE id = '{KEY_ID}'")
    assert await findings(node) == [("key_missing", None)]
    again = await open_node()
    await again.write(1)
    assert await findings(again) == [("changed", 1), ("changed", 2)]


async def test_text_that_is_not_utf8_is_one_entry_that_cannot_be_read(open_node, database_url):
    node = await open_node()
    await node.write(4)
    if node.store.database.shared:
        pytest.skip("PostgreSQL refuses such text")
    await tamper(database_url, "UPDATE audit SET actor = CAST(x'ff' AS TEXT) WHERE number = 2")
    assert await findings(node) == [("changed", 2)]
    await tamper(database_url, "UPDATE audit SET mac = 'text' WHERE number = 4")
    await node.write(1)
    assert await findings(node) == [("changed", 2), ("changed", 4)]


async def test_a_key_of_the_audit_that_a_node_lacks_does_not_keep_it_from_delivering(open_node):
    node = await open_node(KEYS[0])
    await node.store.subscriptions.create(subscription("sub_1"))
    other = Node(Store(node.store.database, Keyring((KEYS[1],))))
    await other.write(1)
    assert [one.id for one in await node.store.subscriptions.all()] == ["sub_1"]
    with pytest.raises(StoreError, match="the key of the audit cannot be read"):
        await node.write(1)
