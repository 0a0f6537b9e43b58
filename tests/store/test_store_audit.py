"""The audit's table on both databases: append-only, one chain for each process, verified from end to end."""

import asyncio
import base64
import sqlite3
from base64 import urlsafe_b64encode
from contextlib import closing
from dataclasses import replace

import asyncpg
import pytest

from relay.config.keyring import Keyring
from relay.core.audit import ANCHOR, AuditRecord, Head
from relay.errors import StoreError
from relay.node.audit import HOUR_SECONDS, AuditLog
from relay.store import audit as audit_store
from relay.store.store import Store
from tests.support.store_kit import NOW, subscription

DAY = 86_400.0
KEYS = [urlsafe_b64encode(letter * 32).decode() for letter in (b"a", b"b")]


class Node:
    """A process that writes a chain of its own."""

    def __init__(self, store, chain: str, keys=(KEYS[0],)) -> None:
        self.store, self.chain, self.now = store, chain, NOW
        self.log = AuditLog(store, Keyring(keys), clock=lambda: self.now, kept_days=365)

    async def open(self) -> "Node":
        await self.log.open(self.chain)
        await self.log.record("node.start", actor="relay")
        return self

    async def write(self, count: int) -> None:
        for _ in range(count):
            await self.log.record("x.y", actor="ops", number=self.store.audit.head.number)
            self.now += 1


@pytest.fixture
def open_node(open_again):
    """Opens nodes on the test's database. A SQLite file has one at a time, so the one before is closed first."""
    opened = []

    async def open_one(chain: str, keys=(KEYS[0],)) -> Node:
        if opened and not opened[-1].database.shared:
            await opened[-1].close()
        opened.append(await open_again())
        return await Node(opened[-1], chain, keys).open()

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


async def findings(node: Node, *, seen=()) -> list[tuple[str, str | None, int | None]]:
    verification = await node.log.verify(seen)
    return [(one.kind, one.chain, one.number) for one in verification.findings]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'eve'",
        "UPDATE audit SET at = 0 WHERE number = 1",
        "DELETE FROM audit WHERE number = 2",
        "DELETE FROM audit",
    ],
)
async def test_the_database_refuses_to_change_or_remove_entries(open_node, database_url, statement):
    node = await open_node("a")
    await node.write(3)

    def execute(connection, _items):
        connection.exec_driver_sql(statement)
        return [None]

    with pytest.raises(StoreError, match="append-only"):
        await node.store.database.write(execute, None)
    assert await findings(node) == []
    assert node.store.audit.head.number == 4


async def test_postgresql_refuses_to_empty_the_table(open_node, database_url):
    node = await open_node("a")
    if not node.store.database.shared:
        pytest.skip("SQLite has no TRUNCATE")

    def execute(connection, _items):
        connection.exec_driver_sql("TRUNCATE audit")
        return [None]

    with pytest.raises(StoreError, match="append-only"):
        await node.store.database.write(execute, None)


async def test_entries_appended_at_the_same_time_are_one_chain(open_node):
    node = await open_node("a")
    await asyncio.gather(*(node.write(10) for _ in range(20)))
    verification = await node.log.verify()
    assert (verification.findings, verification.entry_count) == ([], 201)
    assert node.store.audit.head == verification.heads[0]


async def test_a_group_that_fails_leaves_no_gap(open_node):
    node = await open_node("a")

    def broken(connection, items):
        raise StoreError("no")

    results = await asyncio.gather(
        *(node.write(1) for _ in range(5)), node.store.database.write(broken, None), return_exceptions=True
    )
    assert [type(one) for one in results] == [type(None)] * 5 + [StoreError]
    await node.write(1)
    assert (await findings(node), node.store.audit.head.number) == ([], 7)


async def test_an_entry_whose_commit_seemed_to_fail_is_followed(open_node):
    """PostgreSQL may have committed a transaction whose answer was lost."""
    node = await open_node("a")
    await node.write(1)
    audit = node.store.audit
    lost = audit.head
    audit._committed, audit._uncertain = Head(chain="a", number=1, mac=b""), [lost, replace(lost, number=9)]
    await node.write(1)
    assert (await findings(node), audit.head.number) == ([], 3)


async def test_an_entry_too_many_at_once_or_before_the_chain_fails_alone(open_again):
    store = await open_again()
    with pytest.raises(StoreError, match="no chain"):
        await store.audit.append(AuditRecord(at=NOW, action="x.y"))


async def test_every_change_in_the_table_is_found_and_named(open_node, database_url):
    node = await open_node("a")
    await node.write(5)
    changes = {
        "UPDATE audit SET action = 'a.b' WHERE number = 3": [("changed", "a", 3)],
        "UPDATE audit SET action = 'x.y' WHERE number = 3": [],
        "UPDATE audit SET number = -number WHERE number IN (2, 3)": None,
        "UPDATE audit SET number = 5 + number WHERE number IN (-2, -3)": [("moved", "a", 2), ("moved", "a", 3)],
        "UPDATE audit SET number = -5 + number WHERE number IN (2, 3)": None,
        "UPDATE audit SET number = -number WHERE number < 0": [],
        "UPDATE audit SET times = 7 WHERE number = 6": [("changed", "a", 6)],
        "UPDATE audit SET times = 1 WHERE number = 6": [],
        "UPDATE audit SET previous = x'00' WHERE number = 2": [("changed", "a", 2)],
        "DELETE FROM audit WHERE number = 2": [("missing", "a", 2)],
        "DELETE FROM audit WHERE number IN (4, 5)": [("missing", "a", 2), ("missing", "a", 4)],
    }
    for statement, expected in changes.items():
        await tamper(database_url, statement)
        if expected is not None:
            assert await findings(node) == expected, statement


async def test_a_cut_off_end_is_found_by_the_node_that_runs(open_node, database_url):
    node = await open_node("a")
    await node.write(5)
    await tamper(database_url, "DELETE FROM audit WHERE number > 4")
    assert await findings(node) == [("truncated", "a", 5)]
    await node.write(1)
    assert await findings(node) == [("missing", "a", 5)]
    await tamper(database_url, "DELETE FROM audit")
    assert await findings(node) == [("truncated", "a", 1)]


async def test_a_cut_off_end_is_found_by_anchors_after_the_node_has_ended(open_node, database_url):
    first = await open_node("a")
    await first.write(5)
    second = await open_node("b")
    assert await second.log.anchor() == 1
    await tamper(database_url, "DELETE FROM audit WHERE chain = 'a' AND number > 3")
    assert await findings(second) == [("truncated", "a", 4)]
    third = await open_node("c")
    assert await findings(third) == [("truncated", "a", 4)]
    await tamper(database_url, "DELETE FROM audit WHERE chain = 'a'")
    assert await findings(third) == [("truncated", "a", 1)]
    # A chain that was replaced as a whole, as well as somebody without the key can.
    await tamper(
        database_url,
        "INSERT INTO audit SELECT 'a', number, 'aud_x' || number, at, action, actor, token_id, target, address, "
        "result, status, times, request_id, ends, detail, key_id, previous, mac FROM audit WHERE chain = 'b'",
    )
    found = await findings(third)
    assert ("changed", "a", 1) in found
    assert ("changed", "a", 2) in found
    await tamper(database_url, "DELETE FROM audit", "DELETE FROM audit_cuts")
    assert await findings(third) == [("truncated", "c", 1)]


async def test_an_audit_that_was_removed_as_a_whole_is_found_without_a_node(open_node, open_again, database_url):
    node = await open_node("a")
    await tamper(database_url, "DELETE FROM audit")
    if not node.store.database.shared:
        await node.store.close()
    store = await open_again()
    assert await findings(Node(store, "none")) == [("empty", None, None)]


async def test_anchors_are_hourly_and_only_of_chains_that_have_grown(open_node):
    first = await open_node("a")
    await first.write(2)
    second = await open_node("b")
    await second.log.run_once()
    assert second.store.audit.head.number == 2
    second.now += HOUR_SECONDS - 1
    await second.log.run_once()
    assert second.store.audit.head.number == 2
    second.now += 1
    await second.log.run_once()
    assert second.store.audit.head.number == 2, "the other chain has not grown"
    if second.store.database.shared:
        first.now = second.now
        await first.write(1)
        second.now += HOUR_SECONDS
        await second.log.run_once()
        entry = (await second.store.audit.entries("b", 2))[0]
        assert (entry.record.action, entry.record.count) == (ANCHOR, 1)
    third = await open_node("c")
    third.now = second.now
    await third.log.anchor()
    (anchor,) = await third.store.audit.entries("c", 1)
    assert b'"b":' in anchor.record.detail


async def test_many_chains_are_anchored_in_parts(open_node, monkeypatch):
    monkeypatch.setattr("relay.node.audit.MAX_HEADS", 2)
    monkeypatch.setattr(audit_store, "HEADS", audit_store.HEADS.replace("LIMIT 200", "LIMIT 2"))
    node = await open_node("z")
    for number in range(5):
        node.store.audit.begin_chain(f"a{number}")
        await node.write(1)
    node.store.audit.begin_chain("y")
    assert await node.log.anchor() == 6
    assert node.store.audit.head.number == 3
    assert await findings(node) == []


async def test_retention_removes_the_oldest_and_the_rest_verifies(open_node, database_url):
    first = await open_node("a")
    await first.write(9)
    second = await open_node("b")
    await second.log.anchor()
    second.now = NOW + 365 * DAY + 5
    assert await second.log.remove_old() == 6 + 2
    assert [entry.number for entry in await second.store.audit.entries("a", 0)] == [7, 8, 9, 10]
    assert await findings(second) == []
    await tamper(database_url, "DELETE FROM audit WHERE chain = 'a' AND number = 7")
    assert await findings(second) == [("missing", "a", 7)]


async def test_a_chain_is_forgotten_once_nothing_names_it(open_node):
    first = await open_node("a")
    await first.write(3)
    second = await open_node("b")
    await second.log.anchor()
    second.now = NOW + 366 * DAY
    await second.write(1)
    await second.log.remove_old()
    assert await second.store.audit.chains() == ["a", "b"]
    assert await findings(second) == []
    second.now += 3 * DAY
    await second.write(1)
    await second.log.remove_old()
    assert await second.store.audit.chains() == ["b"]
    assert await findings(second) == []


async def test_an_entry_made_old_by_hand_is_not_removed(open_node, database_url):
    node = await open_node("a")
    await node.write(3)
    await tamper(database_url, "UPDATE audit SET at = 0, id = 'aud_0' || number WHERE number <= 2")
    assert await node.log.remove_old() == 0
    assert await findings(node) == [("changed", "a", 1), ("changed", "a", 2)]


async def test_a_forged_cut_hides_nothing(open_node, database_url):
    node = await open_node("a")
    await node.write(4)
    await tamper(
        database_url,
        "INSERT INTO audit_cuts SELECT chain, number, mac, at, key_id, mac FROM audit WHERE number = 3",
        "DELETE FROM audit WHERE number <= 3",
    )
    assert await findings(node) == [("cut_changed", "a", 3), ("missing", "a", 1)]
    assert await node.log.remove_old() == 0


async def test_entries_verify_after_the_encryption_key_is_rotated_out(open_node):
    first = await open_node("a", keys=(KEYS[0],))
    await first.write(2)
    rotated = await open_node("b", keys=(KEYS[1], KEYS[0]))
    await rotated.write(1)
    without = await open_node("c", keys=(KEYS[1],))
    assert await findings(without) == []
    unknown = await open_node("d", keys=(KEYS[0],))
    assert await findings(unknown) == []


async def test_a_secret_that_somebody_chose_is_no_key_of_the_audit(open_again, database_url):
    """Every subscription has a secret in the same table, encrypted by the relay, and its owner knows it."""
    keyring = Keyring([KEYS[0]])
    store = await open_again(keyring)
    await Node(store, "a").open()
    known = base64.b64encode(b"k" * 32).decode()
    await store.secrets.add_secret("sub_1", f"whsec_{known}", NOW)
    await store.secrets.add_secret("sub_2", f"01020304:{known}", NOW)
    await tamper(
        database_url,
        "UPDATE secrets SET owner = 'audit' WHERE owner = 'sub_1'",
        "UPDATE secrets SET owner = 'audit', id = 'audit_key_01020304' WHERE owner = 'sub_2'",
    )
    assert await store.audit.keys() == {key.id: key.secret for key in keyring.audit_keys}
    assert await findings(Node(store, "a")) == []


async def test_a_key_that_changes_while_the_node_runs_seals_from_then_on(open_node):
    node = await open_node("a")
    node.log._keyring = Keyring([KEYS[1], KEYS[0]])
    await node.log.run_once()
    await node.write(1)
    entries = await node.store.audit.entries("a", 0)
    assert len({entry.key_id for entry in entries}) == 2
    assert await findings(node) == []


async def test_a_chain_that_grows_while_it_is_verified_is_read_on(open_node):
    first = await open_node("a")
    second = await open_node("b")
    if not second.store.database.shared:
        pytest.skip("a SQLite file has one node at a time")
    entries = second.store.audit.entries

    async def meanwhile(chain, after):
        found = await entries(chain, after)
        if chain == "a" and not found and first.store.audit.head.number == 1:
            await first.write(3)
            await second.log.anchor()
        return found

    second.store.audit.entries = meanwhile
    assert await findings(second) == []


async def test_a_verification_begins_again_if_another_node_removes_entries_meanwhile(open_node):
    first = await open_node("a")
    await first.write(3)
    second = await open_node("b")
    first.now = second.now = NOW + 365 * DAY + 1
    cut_of, calls = second.store.audit.cut_of, []

    async def meanwhile(chain):
        found = await cut_of(chain)
        calls.append(chain)
        if calls == ["a"]:
            await second.store.audit.cut("a", NOW + 1, second.log._keys)
        return found

    second.store.audit.cut_of = meanwhile
    assert await findings(second) == []
    assert len(calls) > 4


async def test_text_that_is_not_utf8_is_one_entry_that_cannot_be_read(open_node, database_url):
    node = await open_node("a")
    await node.write(3)
    if node.store.database.shared:
        pytest.skip("PostgreSQL refuses such text")
    await tamper(database_url, "UPDATE audit SET actor = CAST(x'ff' AS TEXT) WHERE number = 2")
    assert await findings(node) == [("unreadable", "a", 2)]


async def test_a_million_counts_cost_a_few_rows(open_node):
    node = await open_node("a")
    for _ in range(3):
        node.log.login_refused("203.0.113.9")
    await node.log.flush(everything=True)
    assert node.store.audit.head.number == 2


async def test_counts_survive_a_database_that_fails(open_node, monkeypatch):
    node = await open_node("a")
    append = node.store.audit.append

    async def fails(*records):
        raise StoreError("the disk is full")

    node.log.login_refused("203.0.113.9")
    monkeypatch.setattr(node.store.audit, "append", fails)
    await node.log.flush(everything=True)
    monkeypatch.setattr(node.store.audit, "append", append)
    node.log.login_refused("203.0.113.9")
    await node.log.flush(everything=True)
    counts = [entry.record.count for entry in await node.store.audit.entries("a", 1)]
    assert sum(counts) == 2


async def test_a_key_of_the_audit_that_a_node_lacks_does_not_keep_it_from_delivering(store):
    await store.subscriptions.create(subscription("sub_1"))
    keyring = Keyring((KEYS[1],))
    await AuditLog(Store(store.database, keyring), keyring, clock=lambda: NOW).open("a command with another key")
    assert [one.id for one in await store.subscriptions.all()] == ["sub_1"]
