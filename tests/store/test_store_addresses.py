"""Addresses at which jobs are read: kept encrypted with the job, read by one call, changed by an answer."""

from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Any

import pytest

from relay.config.keyring import Keyring, new_key
from relay.core.jobs.job import Job
from relay.store.store import Store
from tests.support.store_kit import registration, rows

URL = "https://files.example/operations/1?sig=canary-of-an-address"
OTHER = "https://files.example/operations/2?sig=canary-of-an-address"


@pytest.fixture
async def store(open_again: Callable[..., Awaitable[Store]]) -> Store:
    """A store that encrypts as in production."""
    return await open_again(Keyring([new_key()]))


async def tracked(store: Store, job: str = "job", **more: Any) -> str:
    return (await store.jobs.register(registration(job, **more))).job.uid


async def test_a_job_has_the_address_of_its_registration_and_nothing_else_shows_it(store: Store) -> None:
    uid, other = await tracked(store, status_url=URL), await tracked(store, "other")
    assert await store.jobs.status_url(uid) == URL
    assert await store.jobs.status_url(other) is None
    assert await store.jobs.status_url("job_unknown") is None
    assert "status_url" not in {field.name for field in fields(Job)}
    assert "canary" not in repr(await rows(store, "SELECT * FROM jobs"))


async def test_a_repeated_registration_keeps_or_replaces_the_address(store: Store) -> None:
    uid = await tracked(store)
    assert await tracked(store, status_url=URL) == uid, "known by its id first"
    assert await store.jobs.status_url(uid) == URL
    await tracked(store, metadata={"a": 1})
    assert await store.jobs.status_url(uid) == URL
    await tracked(store, status_url=OTHER)
    assert await store.jobs.status_url(uid) == OTHER


async def test_an_answer_changes_the_address(store: Store) -> None:
    uid, other = await tracked(store, status_url=URL), await tracked(store, "other", status_url=URL)
    await store.jobs.set_status_url(uid, OTHER)
    await store.jobs.set_status_url("job_unknown", OTHER)
    assert [await store.jobs.status_url(one) for one in (uid, other)] == [OTHER, URL]
