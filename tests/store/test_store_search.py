"""Lists of jobs by several filters, and by values of their metadata."""

import itertools
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from relay.core.erasure import ErasureRequest
from relay.core.jobs.connect_accounts import ConnectAccount
from relay.core.records import ListingRecord
from relay.store.databases.pages import decode_cursor
from relay.store.jobs import job_pages
from relay.store.jobs.job_pages import JobFilter
from relay.store.store import Store
from tests.support.store_kit import NOW, job_event, poll, registration, seen, together

KEYS = ("deal", "campaign", "deal")


@pytest.fixture
async def store(open_again: Any) -> Store:
    store: Store = await open_again(search_keys=KEYS)
    return store


async def found(store: Store, limit: int = 50, **filters: Any) -> list[str]:
    """The ids of all pages, newest first. Each page continues where the one before ended."""
    ids: list[str] = []
    cursor = None
    for _ in range(500):
        page = await store.jobs.page(limit=limit, cursor=cursor, **filters)
        assert len(page.items) <= limit
        ids += [job.external_id for job in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return ids
    raise AssertionError("the list has no end")


async def rows_of(store: Store) -> int:
    def count(connection: Connection) -> int:
        return int(connection.execute(text("SELECT COUNT(*) FROM job_search")).scalar_one())

    return await store.database.read(count)


@pytest.mark.parametrize(
    ("value", "searched_for"),
    [("spring", "spring"), (42, "42"), (True, "true"), (4.5, "4.5"), ("", ""), ("it's; \0 é\n", "it's; \0 é\n")],
)
async def test_a_job_is_found_by_the_exact_text_of_a_value(store: Store, value: Any, searched_for: str) -> None:
    await store.jobs.register(registration("a", metadata={"deal": value, "other": "x"}))
    await store.jobs.register(registration("b", metadata={"campaign": value}))
    assert await found(store, metadata=("deal", searched_for)) == ["a"]
    assert await found(store, metadata=("campaign", searched_for)) == ["b"]
    assert await found(store, metadata=("deal", searched_for + " ")) == []
    assert await found(store, metadata=("other", "x")) == []


async def test_a_job_is_found_by_the_metadata_of_its_create(store: Store) -> None:
    await store.jobs.register(registration("a", metadata={"deal": 1}, request={"metadata": {"deal": 2}}))
    await store.jobs.register(registration("b", metadata={"deal": 3}, request={"metadata": {"deal": 3}}))
    for value, ids in {"1": ["a"], "2": ["a"], "3": ["b"]}.items():
        assert await found(store, metadata=("deal", value)) == ids
    await store.jobs.register(registration("a", request={"metadata": {"deal": 4}}))
    for value, ids in {"1": ["a"], "2": [], "4": ["a"]}.items():
        assert await found(store, metadata=("deal", value)) == ids


async def test_erasure_and_retention_remove_what_a_job_is_found_by(store: Store) -> None:
    for name in ("purged", "erased", "old", "kept"):
        await store.jobs.register(registration(name, metadata={"deal": name}))
    jobs = {name: (await store.jobs.find(name))[0].uid for name in ("purged", "erased", "old")}
    await store.jobs.purge(jobs["purged"], NOW)
    await store.erasure.step(ErasureRequest(job="erased"), None, NOW)
    await store.jobs.record(poll(jobs["old"], 0, "failed", outcome="failed"))
    assert await rows_of(store) == 2
    await store.upkeep.delete_events(NOW + 1e6)
    await store.upkeep.delete_jobs(NOW + 1e6)
    assert await rows_of(store) == 1
    assert await found(store, metadata=("deal", "kept")) == ["kept"]


async def _varied(store: Store) -> list[dict[str, Any]]:
    """Jobs with every combination of a few values, and what each is found by."""
    made, jobs, polls = [], [], []
    for nth in range(64):
        one: dict[str, Any] = {
            "source": "revor" if nth & 1 else "other",
            "account": "default" if nth & 2 else "second",
            "group": "q4" if nth & 4 else None,
            "channel": "email" if nth & 8 else "linkedin",
            "connect_account": "acc_1" if nth & 16 else "acc_2",
            "metadata": ("deal", str(nth % 3)),
            "status": "failed" if nth & 32 else "running",
            "open": not nth & 32,
            "since": NOW + nth,
        }
        job = registration(
            str(nth),
            source=one["source"],
            account=one["account"],
            group=one["group"],
            tracked_at=NOW + nth,
            metadata={"deal": nth % 3},
        )
        state = seen(one["status"], channel=one["channel"], connect_account_id=one["connect_account"])
        events = [job_event(job.job.uid, 1, one["status"], owner=f"{one['source']}/{one['account']}")]
        outcome = None if one["open"] else "failed"
        polls.append(poll(job.job.uid, 0, one["status"], seen=state, events=events, outcome=outcome))
        jobs.append(job)
        made.append(one)
    await store.jobs.register_many(jobs)
    await together(store, *map(store.jobs.record, polls))
    return made


@pytest.mark.parametrize("scanned", [2, 5_000])
async def test_every_pair_of_filters_finds_what_it_should(
    store: Store, scanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far a page reads: its cursor continues there."""
    monkeypatch.setattr(job_pages, "SCANNED", scanned)
    made = await _varied(store)
    wanted: dict[str, Any] = {**made[47], "since": NOW + 9}
    for pair in itertools.combinations(wanted, 2):
        filters = {name: wanted[name] for name in pair}
        right = [
            str(nth)
            for nth, one in reversed(list(enumerate(made)))
            if all(one[name] >= value if name == "since" else one[name] == value for name, value in filters.items())
        ]
        assert await found(store, limit=5, **filters) == right, filters
    assert await found(store, **wanted) == ["47"]
    mine = store.within(("revor", "default"))
    right = [str(nth) for nth, one in reversed(list(enumerate(made))) if nth & 3 == 3 and one["status"] == "failed"]
    assert await found(mine, limit=3, status="failed") == right
    assert await found(mine, metadata=("deal", "2"), account="second") == []
    assert await found(mine, metadata=("deal", "2"), open=False) == ["59", "47", "35"]


@pytest.mark.parametrize(
    ("wanted", "bound", "drivers"),
    [
        (JobFilter(), False, [()]),
        (JobFilter(since=NOW), False, [()]),
        (JobFilter(source="a"), False, [()]),
        (JobFilter(open=False), False, [()]),
        (JobFilter(open=True), False, [("unended",)]),
        (JobFilter(status="failed"), False, [("status",)]),
        (JobFilter(status="succeeded"), False, [()]),
        (JobFilter(status="running"), False, [("unended",)]),
        (JobFilter(status="a status of another upstream", channel="email"), False, [("channel",), ("unended",)]),
        (JobFilter(source="a", account="b"), False, [("account",)]),
        (JobFilter(source="a", account="b", open=False), False, [("account",)]),
        (
            JobFilter(source="a", account="b", open=True),
            False,
            [("source", "account", "open"), ("account",), ("unended",)],
        ),
        (
            JobFilter(source="a", account="b", open=True),
            True,
            [("source", "account", "open"), ("account",)],
        ),
        (JobFilter(source="a", account="b", status="failed", channel="email"), True, [("account",)]),
        (JobFilter(source="a", account="b", metadata=("k", "v")), True, [("metadata",), ("account",)]),
    ],
)
def test_a_bound_token_s_page_reads_rows_of_its_account(
    wanted: JobFilter, bound: bool, drivers: list[tuple[str, ...]]
) -> None:
    """How short a page is would tell how many jobs of others have a status."""
    assert job_pages.drivers_of(wanted, bound=bound) == drivers


async def test_no_cursor_names_a_job_of_another_account(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_pages, "SCANNED", 1)
    for nth in range(4):
        await store.jobs.register(registration(str(nth), source="other", tracked_at=NOW + nth, metadata={"deal": 1}))
    mine = store.within(("revor", "default"))
    page = await mine.jobs.page(limit=5, metadata=("deal", "1"))
    assert page.items == ()
    shown = decode_cursor(page.next_cursor)
    others = [job.uid for nth in range(4) for job in await store.jobs.find(str(nth))]
    assert shown is not None
    assert shown not in others


# --- one text for all of it


async def searched(store: Store, text: str, limit: int = 50, **filters: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The ids of all pages of a search, newest first, and what the first page matched."""
    ids: list[str] = []
    matches = None
    cursor = None
    for _ in range(200):
        page = await store.jobs.search(text, KEYS, limit=limit, cursor=cursor, **filters)
        assert len(page.items) <= limit
        ids += [job.external_id for job in page.items]
        matches = [tuple(one)[:3] for one in page.matches] if matches is None else matches
        cursor = page.next_cursor
        if cursor is None:
            return ids, matches
    raise AssertionError("the search has no end")


async def _campaign(store: Store) -> None:
    """Four jobs of two people in two campaigns, sent from two accounts, one of which has a name."""
    for nth, (id, person, group, account) in enumerate(
        [
            ("3f2a9c1e-6b75", "Ada Lovelace", "Q4 launch", "acc_1"),
            ("81d68d40-57a7", "Grace Hopper", "Q4 launch", "acc_2"),
            ("3f2aFFFF", "ada lovelace", "spring 100%", "acc_2"),
            ("job_x", "Adam_1", None, None),
        ]
    ):
        await store.jobs.register(
            registration(id, tracked_at=NOW + nth, group=group, connect_account_id=account, metadata={"deal": person})
        )
    account = ConnectAccount(
        source="revor",
        account="default",
        id="acc_1",
        state="ok",
        since=NOW,
        told_state="ok",
        channel="linkedin",
        name="Sales EMEA",
    )
    known = await store.connect_accounts.known("revor", "default")
    await store.connect_accounts.record(ListingRecord(known=known, now=NOW, changed=(account,)))


FOUND: tuple[tuple[str, list[str], list[tuple[Any, ...]]], ...] = (
    ("3f2a9c1e-6b75", ["3f2a9c1e-6b75"], [("id", "3f2a9c1e-6b75", None)]),
    ("3f2a", ["3f2aFFFF", "3f2a9c1e-6b75"], [("id", "3f2a", None)]),
    ("3f2A", [], []),
    ("3f2", [], []),
    ("job_x", ["job_x"], [("id", "job_x", None)]),
    (
        "ada l",
        ["3f2aFFFF", "3f2a9c1e-6b75"],
        [("metadata", "ada lovelace", "deal"), ("metadata", "Ada Lovelace", "deal")],
    ),
    ("Adam_", ["job_x"], [("metadata", "Adam_1", "deal")]),
    ("Ada%", [], []),
    ("A_a", [], []),
    ("lovelace", [], []),
    ("q4", ["81d68d40-57a7", "3f2a9c1e-6b75"], [("group", "Q4 launch", None)]),
    ("LAUNCH", ["81d68d40-57a7", "3f2a9c1e-6b75"], [("group", "Q4 launch", None)]),
    ("100%", ["3f2aFFFF"], [("group", "spring 100%", None)]),
    ("%", [], []),
    ("acc_2", ["3f2aFFFF", "81d68d40-57a7"], [("connect_account", "acc_2", None)]),
    ("emea", ["3f2a9c1e-6b75"], [("connect_account", "acc_1", None)]),
    ("(", [], []),
    ("'; DROP TABLE jobs --", [], []),
)


async def test_one_text_finds_ids_people_campaigns_and_sending_accounts(store: Store) -> None:
    await _campaign(store)
    for wanted, ids, matches in FOUND:
        assert await searched(store, wanted) == (ids, matches), wanted


async def test_a_job_is_found_by_the_beginning_of_the_relay_s_id(store: Store) -> None:
    await _campaign(store)
    (job,) = await store.jobs.find("81d68d40-57a7")
    for id in (job.uid, job.uid[:-3]):
        assert await searched(store, id) == (["81d68d40-57a7"], [("id", id, None)])


async def test_a_sending_account_is_named(store: Store) -> None:
    await _campaign(store)
    page = await store.jobs.search("Sales", KEYS, limit=5)
    assert [one.name for one in page.matches] == ["Sales EMEA"]


@pytest.mark.parametrize("scanned", [2, 5_000])
async def test_every_page_of_a_search_goes_on_where_the_last_one_ended(
    store: Store, scanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_pages, "SCANNED", scanned)
    jobs = [
        registration(
            str(nth),
            tracked_at=NOW + nth,
            group="spring" if nth % 3 == 0 else None,
            metadata={"deal": f"Spring {nth % 5}", "campaign": "spring" if nth % 2 else "autumn"},
        )
        for nth in range(40)
    ]
    await store.jobs.register_many(jobs)
    for limit in (3, 50):
        assert (await searched(store, "spring", limit))[0] == [str(nth) for nth in reversed(range(40))]
        assert (await searched(store, "spring 4", limit))[0] == [str(nth) for nth in reversed(range(4, 40, 5))]
        found, _ = await searched(store, "spring", limit, group="spring", since=NOW + 20, open=True)
        assert found == [str(nth) for nth in reversed(range(21, 40, 3))]
    assert await searched(store, "spring", status="failed") == ([], [])


async def test_a_search_of_too_many_values_says_that_there_are_more(store: Store) -> None:
    await store.jobs.register_many([registration(f"j{nth}", metadata={"deal": 1000 + nth}) for nth in range(30)])
    page = await store.jobs.search("10", KEYS, limit=50)
    assert (len(page.items), page.more) == (20, True)
    page = await store.jobs.search("101", KEYS, limit=50)
    assert (len(page.items), page.more) == (10, False)


async def test_a_search_of_too_many_ids_says_that_there_are_more(store: Store) -> None:
    await store.jobs.register_many([registration(f"run_{nth:02}") for nth in range(30)])
    for wanted, count, more in (("run_", 20, True), ("run_1", 10, False), ("run_17", 1, False)):
        page = await store.jobs.search(wanted, KEYS, limit=50)
        assert (len(page.items), page.more) == (count, more)


async def test_a_changed_value_is_no_longer_found(store: Store) -> None:
    await store.jobs.register(registration("a", metadata={"deal": "Ada"}))
    await store.jobs.register(registration("a", metadata={"deal": "Bob"}))
    assert await searched(store, "ada") == ([], [])
    assert (await searched(store, "bo"))[0] == ["a"]
    other = await store.jobs.search("bo", ("campaign",), limit=5)
    assert (other.items, other.matches) == ([], [])


async def test_a_bound_token_searches_its_own_jobs_and_learns_no_name_of_others(store: Store) -> None:
    await _campaign(store)
    own = registration("mine", source="revor", account="emea", group="spring own", metadata={"deal": "Ada B"})
    await store.jobs.register(own)
    mine = store.within(("revor", "emea"))
    for wanted, ids in {"ada": ["mine"], "spring": ["mine"], "q4": [], "3f2a": [], "emea": [], "acc_2": []}.items():
        found, matches = await searched(mine, wanted)
        assert found == ids, wanted
        assert len(matches) == len(ids), wanted
    assert await searched(mine, "ada", account="default") == ([], [])


@pytest.mark.parametrize("scanned", [3, 5_000])
async def test_jobs_are_counted_up_to_a_number(store: Store, scanned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_pages, "SCANNED", scanned)
    made = await _varied(store)
    wanted: list[dict[str, Any]] = [{}, {"open": True}, {"status": "failed"}, {"group": "q4", "status": "failed"}]
    for filters in [*wanted, {"metadata": ("deal", "1")}, {"metadata": ("deal", "1"), "open": True}]:
        right = sum(all(one[name] == value for name, value in filters.items()) for one in made)
        for most in (5, 100):
            number, more = await store.jobs.count(most, **filters)
            assert number <= right
            assert number == min(right, most) or (more and scanned == 3), filters
            assert more or number == right, filters
    mine = store.within(("revor", "default"))
    assert await mine.jobs.count(5, account="second") == (0, False)
    own = sum(one["source"] == "revor" and one["account"] == "default" for one in made)
    number, more = await mine.jobs.count(100)
    assert number == own or (more and scanned == 3)
