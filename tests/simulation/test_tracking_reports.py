"""Reports of an account's polling, and explanations of a job's next poll."""

from typing import Any

import pytest

from relay.core.jobs.job import Observation
from relay.core.planner import PlannerConfig
from relay.polling.tracking import Tracking
from relay.sources.definition import load_definition
from relay.testing import ScriptedError, ScriptedPoll
from tests.support.simulation_world import World, open_world, seen

KEY = ("revor", "default")


def tracking_of(world: World) -> Tracking:
    return Tracking(
        store=world.store,
        pollers={KEY: world.poller},
        definitions={"revor": load_definition("revor")},
        signals=world.signals,
        clock=world.clock,
    )


def refused(code: str = "api_key_revoked") -> ScriptedPoll:
    return ScriptedPoll(kind="unauthorized", status_code=401, error=ScriptedError(code=code, message="no"))


async def explained(world: World, uid: str) -> Any:
    job = await world.store.jobs.get(uid)
    assert job is not None
    return tracking_of(world).explain(job)


async def test_explanation_names_the_refused_key_and_its_fix(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", refused())
        await world.run(3)
        explanation = await explained(world, uid)
        assert explanation.reason == "unauthorized"
        assert explanation.sentence.startswith("Revor refuses the API key: The Revor API key was revoked.")
        error = explanation.last_error
        assert (error["code"], error["meaning"], error["fix"], error["who"]) == (
            "api_key_revoked",
            "The Revor API key was revoked",
            "Make a new key in Revor and use it",
            "administrator",
        )
        assert error["at"] == explanation.last_polled_at


@pytest.mark.parametrize("way", ["restart", "reload"])
async def test_refusal_of_an_earlier_key_is_stale(tmp_path, way):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", refused(), seen("queued"))
        await world.run(3)
        assert tracking_of(world).reports()[0].state == "unauthorized"
        world.key = "another"
        if way == "restart":
            await world.restart_poller()
        else:
            world.poller.configure(world.poller.account.settings, PlannerConfig())
        explanation = await explained(world, uid)
        assert explanation.reason != "unauthorized"
        assert explanation.last_error is None
        assert tracking_of(world).reports()[0].state == "ok"
        assert not world.poller.paused
        await world.run(60)
        first, *rest = await world.types()
        assert (first, sorted(rest)) == ("relay.source.unauthorized", ["queued", "relay.source.recovered"])
        assert (await explained(world, uid)).last_error is None


async def test_new_key_is_probed_without_any_job(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", refused())
        await world.run(3)
        await world.store.jobs.untrack(uid, world.clock())
        world.poller.agenda.forget(uid)
        world.key = "another"
        world.poller.configure(world.poller.account.settings, PlannerConfig())
        assert await world.poller.probe()
        assert await world.types() == ["relay.source.unauthorized", "relay.source.recovered"]


@pytest.mark.parametrize(
    ("poll", "code", "meaning"),
    [
        (ScriptedPoll(kind="unavailable", status_code=503), "unavailable", "Revor does not answer"),
        (ScriptedPoll(kind="malformed", status_code=200), "malformed", "What answers is not the API of Revor"),
        (
            ScriptedPoll(kind="forbidden", status_code=403, error=ScriptedError(code="permission_denied")),
            "permission_denied",
            "The Revor API key may not do this",
        ),
        (ScriptedPoll(kind="forbidden", status_code=403), "forbidden", "The API key of Revor may not see this"),
    ],
)
async def test_explanation_says_why_the_last_poll_failed(tmp_path, poll, code, meaning):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", poll)
        await world.run(3)
        explanation = await explained(world, uid)
        assert (explanation.last_error["code"], explanation.last_error["meaning"]) == (code, meaning)
        assert explanation.last_error["fix"]
        assert explanation.last_error["at"] == explanation.last_polled_at
        assert explanation.reason == "backing_off"
        assert f"failed ({meaning})" in explanation.sentence
        world.source.script("a", seen("queued"))
        await world.run(600)
        assert (await explained(world, uid)).last_error is None


async def test_explanation_says_why_a_job_failed(tmp_path):
    error = {"code": "insufficient_credits", "message": "no credits", "retryable": False}
    poll = ScriptedPoll(
        observation=Observation(
            status="failed", observed_at=0.0, upstream={"id": "a", "status": "failed", "error": error}
        )
    )
    async with open_world(tmp_path) as world:
        uid = await world.register("a", poll)
        await world.run(3)
        explanation = await explained(world, uid)
        assert explanation.reason == "closed"
        assert "(failed): The Revor account has too few credits." in explanation.sentence
        assert (explanation.last_error["code"], explanation.last_error["fix"]) == (
            "insufficient_credits",
            "Add credits in Revor",
        )
        problem, hint = tracking_of(world).problem_of(await world.store.jobs.get(uid))
        assert (problem.code, hint.fix, hint.repeat) == ("insufficient_credits", "Add credits in Revor", "safe")
