import pytest

from relay.api.app import create_api
from relay.api.jobs import waiting


async def test_a_wait_ends_when_the_job_is_closed(client, world):
    job = await world.job("a")

    async def running():
        await world.poll(job, "running")
        return True

    async def failed():
        await world.poll(job, "failed")
        return True

    world.signals.steps = [running, failed]
    answer = await client.get("/v1/jobs/a", headers={"Prefer": "wait=10"})
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["open"]) == ("failed", False)
    assert answer.headers["preference-applied"] == "wait=10"
    assert world.tracking.hurried == [job.uid]
    assert world.signals.open_watches == 0


async def test_a_wait_for_running_ends_when_the_job_runs(client, world):
    job = await world.job("a")

    async def running():
        await world.poll(job, "running")
        return True

    async def never():
        raise AssertionError("it runs already")

    world.signals.steps = [running, never]
    answer = await client.get("/v1/jobs/a?until=running", headers={"Prefer": "wait=10"})
    assert answer.json()["status"] == "running"


@pytest.mark.parametrize("statuses", [["running"], ["failed"], ["running", "queued"]])
async def test_a_wait_for_running_ends_at_any_later_status(client, world, statuses):
    job = await world.job("a")
    for status in statuses:
        await world.poll(job, status)
    answer = await client.get("/v1/jobs/a?until=running", headers={"Prefer": "wait=300"})
    assert answer.headers["preference-applied"] == "wait=300"
    assert world.signals.waits == []


async def test_a_wait_that_times_out_answers_with_the_current_job(client, world):
    await world.job("a")

    async def silence():
        return False

    world.signals.steps = [silence] * 10
    answer = await client.get("/v1/jobs/a", headers={"Prefer": "wait=3"})
    assert (answer.status_code, answer.json()["open"]) == (200, True)
    assert sum(world.signals.waits) == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ("wait=301", 300),
        ("wait=999999999", 300),
        ("respond-async, wait=7", 7),
        ("WAIT = 7; x=y", 7),
        ('wait="7"', 7),
        ("wait=0", 0),
        ("wait=-1", None),
        ("wait=soon", None),
        ("await=5", None),
        ("wait", None),
        ("", None),
    ],
)
async def test_waits_are_capped_and_malformed_preferences_ignored(client, world, prefer, seconds):
    await world.poll(await world.job("a"), "failed")
    answer = await client.get("/v1/jobs/a", headers={"Prefer": prefer})
    assert answer.status_code == 200
    assert answer.headers.get("preference-applied") == (None if seconds is None else f"wait={seconds}")


async def test_a_stopping_node_ends_waits(client, world):
    await world.job("a")
    world.node.stop()
    assert (await client.get("/v1/jobs/a", headers={"Prefer": "wait=300"})).status_code == 200
    assert world.signals.waits == []


async def test_a_job_purged_while_waiting_is_404(client, world):
    job = await world.job("a")

    async def purged():
        await world.store.jobs.purge(job.uid, world.now)
        return True

    world.signals.steps = [purged]
    answer = await client.get("/v1/jobs/a", headers={"Prefer": "wait=5"})
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


async def test_a_job_untracked_while_waiting_ends_the_wait(client, world):
    job = await world.job("a")

    async def untracked():
        await world.store.jobs.untrack(job.uid, world.now)
        return True

    world.signals.steps = [untracked]
    answer = (await client.get("/v1/jobs/a", headers={"Prefer": "wait=5"})).json()
    assert (answer["open"], answer["outcome"]) == (False, "untracked")


async def test_waits_are_limited(world, open_client):
    await world.job("a")
    client = open_client()
    client._transport.app = api = create_api(world.ports(), world.proxy)
    api.context.ports.admission.waits.limit = 0
    answer = await client.get("/v1/jobs/a", headers={"Prefer": "wait=5"})
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_streams")
    assert (await client.get("/v1/jobs/a")).status_code == 200


@pytest.mark.parametrize(("polling", "longest"), [(True, waiting.SLICE_SECONDS), (False, 1)])
async def test_a_job_is_read_every_second_only_if_another_node_polls_it(client, world, polling, longest):
    await world.job("a")
    world.tracking.polling = polling

    async def silence():
        return False

    world.signals.steps = [silence] * 40
    await client.get("/v1/jobs/a", headers={"Prefer": "wait=20"})
    assert sum(world.signals.waits) == pytest.approx(20, abs=0.5)
    assert max(world.signals.waits) == longest
