"""Whom a create named: kept encrypted with its intent and its job, read by one call, gone with them."""

from collections.abc import Awaitable, Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import structlog

from relay.config.keyring import Keyring, key_id, new_key
from relay.core.erasure import ErasureRequest
from relay.core.jobs.job import Job, Recipient
from relay.core.records import Intent
from relay.errors import DecryptError
from relay.store.databases.sqlite import SqliteDatabase
from relay.store.jobs.intents import IN_FLIGHT_SECONDS
from relay.store.store import Store
from tests.support.store_kit import NOW, execute, intent, poll, registration, rows

KIM = Recipient(address="kim.canary@example.com", phone="+14155550100")
LEE = Recipient(profile_url="https://www.linkedin.com/in/lee-canary")
SECRETS = (b"kim.canary@example.com", b"14155550100", b"lee-canary")
LATER = NOW + 2 * IN_FLIGHT_SECONDS


@pytest.fixture
async def store(open_again: Callable[..., Awaitable[Store]]) -> Store:
    """A store that encrypts as in production."""
    return await open_again(Keyring([new_key()]))


async def tracked(store: Store, job: str = "job", **more: Any) -> str:
    return (await store.jobs.register(registration(job, **more))).job.uid


async def everything_stored(store: Store) -> bytes:
    found = [await rows(store, f"SELECT * FROM {table}") for table in ("jobs", "intents")]
    return repr(found).encode()


async def test_a_job_has_the_recipient_of_its_create_and_nothing_else_shows_it(store: Store) -> None:
    uid, other = await tracked(store, recipient=KIM), await tracked(store, "other")
    assert await store.jobs.recipient(uid) == KIM
    assert await store.jobs.recipient(other) is None
    assert await store.jobs.recipient("job_unknown") is None
    assert await store.jobs.recipient("job\0") is None
    assert not {"recipient", "captured"} & {field.name for field in fields(Job)}
    assert [secret for secret in SECRETS if secret in await everything_stored(store)] == []


async def test_a_repeated_create_keeps_or_replaces_what_is_captured(store: Store) -> None:
    uid = await tracked(store)
    assert await tracked(store, recipient=KIM) == uid, "known by the API first"
    assert await store.jobs.recipient(uid) == KIM
    await tracked(store, metadata={"a": 1})
    assert await store.jobs.recipient(uid) == KIM
    await tracked(store, recipient=LEE)
    assert await store.jobs.recipient(uid) == LEE


async def test_a_token_of_another_account_reads_no_recipient(store: Store) -> None:
    uid = await tracked(store, recipient=KIM)
    assert await store.within(("revor", "default")).jobs.recipient(uid) == KIM
    assert await store.within(("revor", "other")).jobs.recipient(uid) is None


# --- keys


async def test_a_damaged_recipient_counts_as_none_and_is_logged_without_it(store: Store) -> None:
    uid, other = await tracked(store, recipient=KIM), await tracked(store, "other", recipient=LEE)
    await execute(
        store, "UPDATE jobs SET captured = (SELECT captured FROM jobs WHERE uid = :b) WHERE uid = :a", a=uid, b=other
    )
    with structlog.testing.capture_logs() as lines:
        assert await store.jobs.recipient(uid) is None
    (line,) = lines
    assert (line["event"], line["job_uid"]) == ("recipient_unreadable", uid)
    assert "belongs to another row" in line["error"]
    assert [secret for secret in SECRETS if secret in repr(lines).encode()] == []


async def test_a_recipient_whose_key_is_missing_is_not_taken_for_none(
    open_again: Callable[..., Awaitable[Store]],
) -> None:
    key = new_key()
    keyring = Keyring([key])
    store = await open_again(keyring)
    uid = await tracked(store, recipient=KIM)
    keyring.replace([new_key()])
    with pytest.raises(DecryptError, match="is not one of the 1 configured") as caught:
        await store.jobs.recipient(uid)
    assert caught.value.key == key_id(key)


# --- intents


@pytest.mark.parametrize("callback", [None, "https://crm.example/hooks"])
async def test_a_create_in_flight_has_its_recipient_encrypted(store: Store, callback: str | None) -> None:
    one = intent(recipient=KIM, callback_url=callback, callback_types=None if callback is None else ("failed",))
    await store.intents.begin(one)
    assert await store.intents.get(one.id) == one
    assert [secret for secret in SECRETS if secret in await everything_stored(store)] == []
    await store.intents.unknown(one.id, "no_answer")
    listed = (*(await store.intents.page(limit=9, now=LATER)).items, *await store.intents.unreported(LATER, 9))
    assert [each.recipient for each in listed] == [None, None]


async def lost(store: Store, **fields: Any) -> Intent:
    """A create of unknown fate, as a person finds it."""
    one = intent(recipient=KIM, **fields)
    await store.intents.begin(one)
    await store.intents.unknown(one.id, "no_answer")
    found = await store.intents.get(one.id)
    assert found is not None
    return found


async def test_a_job_that_a_person_names_gets_the_recipient_and_the_intent_keeps_none(store: Store) -> None:
    one = await lost(store)
    uid = await tracked(store, resolves=one, recipient=one.recipient)
    assert await store.jobs.recipient(uid) == KIM
    assert await rows(store, "SELECT sealed FROM intents") == [{"sealed": None}]


# --- gone


async def erase(store: Store, request: ErasureRequest) -> None:
    cursor = None
    while True:
        cursor = (await store.erasure.step(request, cursor, LATER)).next_cursor
        if cursor is None:
            return


async def purge(store: Store, uid: str) -> None:
    await store.jobs.purge(uid, NOW)


async def by_id(store: Store, _: str) -> None:
    await erase(store, ErasureRequest(job="job"))


async def by_uid(store: Store, uid: str) -> None:
    await erase(store, ErasureRequest(job=uid))


async def by_group(store: Store, _: str) -> None:
    await erase(store, ErasureRequest.of_group("q4"))


async def by_metadata(store: Store, _: str) -> None:
    await erase(store, ErasureRequest(name="email", value="kim@example.com"))


async def by_retention(store: Store, _: str) -> None:
    await store.upkeep.delete_old("intents", LATER)
    assert await store.upkeep.delete_jobs(LATER) == (1, None)


@pytest.mark.parametrize("remove", [purge, by_id, by_uid, by_group, by_metadata, by_retention])
async def test_a_recipient_is_erased_with_its_job(
    store: Store, remove: Callable[[Store, str], Awaitable[None]], tmp_path: Path
) -> None:
    one = await lost(store, group="q4", metadata={"email": "kim@example.com"})
    uid = await tracked(store, resolves=one, recipient=KIM, group="q4", metadata={"email": "kim@example.com"})
    await tracked(store, "other", recipient=LEE)
    (before,) = await rows(store, "SELECT captured FROM jobs WHERE uid = :uid", uid=uid)
    await store.jobs.record(poll(uid, 0, "succeeded", outcome="succeeded"))
    await remove(store, uid)
    assert await store.jobs.recipient(uid) is None
    assert len(await rows(store, "SELECT uid FROM jobs WHERE captured IS NOT NULL")) == 1
    assert await rows(store, "SELECT sealed FROM intents WHERE sealed IS NOT NULL") == []
    if isinstance(store.database, SqliteDatabase):  # not even the ciphertext, for who keeps an old key
        await store.close()
        assert bytes(before["captured"]) not in b"".join(path.read_bytes() for path in tmp_path.glob("relay.db*"))


@pytest.mark.parametrize("remove", [by_group, by_metadata])
async def test_a_recipient_is_erased_with_its_intent(
    store: Store, remove: Callable[[Store, str], Awaitable[None]]
) -> None:
    await lost(store, group="q4", metadata={"email": "kim@example.com"})
    await remove(store, "")
    assert await rows(store, "SELECT sealed FROM intents") == []
