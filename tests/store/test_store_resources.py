"""Jobs of several resources of one source: each is a job of its own, whatever its id."""

from collections.abc import Sequence

import pytest

from relay.core.polling.tracking import TrackRequest
from relay.core.records import CallbackRoom, WantedCallback
from relay.store.jobs.job_pages import OfResource
from relay.store.store import Store
from tests.support.store_kit import NOW, callback_for, intent, registration, together, track

KINDS = ("", "websets", "jobs_v2")


async def test_one_id_is_a_job_of_each_resource(store: Store) -> None:
    made = await store.jobs.register_many([registration("a", resource=kind) for kind in KINDS])
    assert [one.created for one in made] == [True] * 3
    again = await together(store, *(store.jobs.register(registration("a", resource=kind)) for kind in KINDS))
    assert [one.created for one in again] == [False] * 3
    assert [one.job.uid for one in again] == [one.job.uid for one in made]
    assert [job.resource for job in [await store.jobs.get(one.job.uid) for one in made] if job] == list(KINDS)
    for kind, one in zip(KINDS, made, strict=True):
        assert await store.jobs.find("a", "revor", "default", kind) == [one.job]
    assert len(await store.jobs.find("a")) == 3
    assert await store.jobs.find("a", resource="other") == []


async def test_duplicates_in_one_batch_are_of_one_resource(store: Store) -> None:
    batch = [registration("a", resource=kind) for kind in (*KINDS, *KINDS)]
    assert [one.created for one in await store.jobs.register_many(batch)] == [True] * 3 + [False] * 3


async def test_a_planner_reads_the_resource_of_open_jobs(store: Store) -> None:
    for number, kind in enumerate(KINDS):
        await track(store, "a", resource=kind, tracked_at=NOW + number)
    assert [job.resource for job in await store.jobs.open_jobs("revor", "default")] == list(KINDS)


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (OfResource("jobs", ("revor",)), "a"),
        (OfResource("websets", ()), "bd"),
        (OfResource("websets", ("other",)), "bcd"),
        (OfResource("jobs", ("revor", "other")), "ac"),
        (OfResource("none", ()), ""),
    ],
)
async def test_jobs_are_listed_by_the_name_of_their_resource(store: Store, wanted: OfResource, ids: str) -> None:
    """The first resource of a source may have the name of another one elsewhere."""
    jobs = (("a", "revor", ""), ("b", "revor", "websets"), ("c", "other", ""), ("d", "revor", "websets"))
    for number, (id, source, kind) in enumerate(jobs):
        await track(store, id, source=source, resource=kind, tracked_at=NOW + number)
    page = await store.jobs.page(limit=10, resource=wanted)
    assert "".join(sorted(job.external_id for job in page.items)) == ids
    bound = await store.within(("revor", "default")).jobs.page(limit=10, resource=wanted)
    assert [job.source for job in bound.items] == ["revor"] * len(set(ids) - {"c"})
    page = await store.jobs.page(limit=10, resource=wanted, source="revor", open=True)
    assert len(page.items) == len(set(ids) - {"c"})


async def test_callbacks_are_counted_for_the_job_of_the_resource(store: Store) -> None:
    sinks = [f"https://hooks.example/{number}" for number in range(2)]
    id = await callback_for(store, sinks[0], "sub_0", NOW)
    for kind in KINDS:
        await track(store, "a", resource=kind, callback_subscription_id=id if kind == "websets" else None)

    async def room(kind: str) -> Sequence[str | None]:
        room = CallbackRoom(("a", "revor", "default", kind), fewer_than=1)
        return await store.subscriptions.callbacks_for([WantedCallback(sinks[1], "sub_1", room)], NOW, None)

    assert await room("websets") == [None]
    assert await room("") == ["sub_1"]


async def test_a_create_keeps_the_resource_of_its_job(store: Store) -> None:
    sent = intent(resource="websets", callback_url="https://hooks.example/1")
    await store.intents.begin(sent)
    await store.intents.unknown(sent.id, "no_answer")
    found = await store.intents.get(sent.id)
    assert found is not None
    assert found.resource == "websets"
    (listed,) = (await store.intents.page(limit=5, now=NOW)).items
    assert listed.resource == "websets"
    assert TrackRequest.of_create(found, "a").key == ("a", "revor", "default", "websets")
