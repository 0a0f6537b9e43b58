import pytest


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


async def test_a_job_purged_while_waiting_is_404(client, world):
    job = await world.job("a")

    async def purged():
        await world.store.jobs.purge(job.uid, world.now)
        return True

    world.signals.steps = [purged]
    answer = await client.get("/v1/jobs/a", headers={"Prefer": "wait=5"})
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
