"""The planner against the sandbox's own world, in simulated time: what it states of its delay is honest."""

import sys
from pathlib import Path
from typing import Any

import pytest

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.forecast import MEASURED_ENDS
from relay.sandbox.lifecycle import accepted_item
from relay.sandbox.world import World as Sandbox
from tests.support.scale import scaled

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from polling_workloads import World, make
from polling_world import SharedLimit, simulate

pytestmark = pytest.mark.verify

BEGINNING = 1_800_000_000.0
CHANNELS = ("linkedin", "email", "whatsapp")
ENDS_A_SAMPLE = 100
JOBS = scaled(700, 2_000)


class SandboxJob:
    """A job of the sandbox as the simulator knows jobs; its channel is its lane, and it is registered by the upstream's
    answer to its create."""

    min_interval_seconds = 60.0
    lane = None
    attempts = ()
    scheduled_at = None

    def __init__(self, sandbox: Sandbox, channel: str, now: float) -> None:
        self._sandbox = sandbox
        self._job = sandbox.create(account="acct", channel=channel, now=now)
        self.id, self.channel, self.action = self._job.id, channel, "outreach.dispatch"
        self.created_at, self.finished_at = self._job.created_at, self._job.ended_at

    def item_at(self, at: float) -> dict[str, Any]:
        if at <= self.created_at:
            return accepted_item(self._job)
        return self._sandbox.item_at(self._job, at)


class Alone(SharedLimit):
    """A limit without other users."""

    steady_share = burst_share = 1e-9


def sandbox_world(count: int, seed: int, *, per_second: float = 1000.0, speed: float = 1.0) -> World:
    """Jobs over three channels, dispatched one after another."""
    sandbox = Sandbox(seed=seed, speed=speed)
    jobs = [SandboxJob(sandbox, CHANNELS[n % 3], BEGINNING + n / per_second) for n in range(count)]
    return World("sandbox", tuple(jobs))  # type: ignore[arg-type]  # it has what the simulator reads of a job


class Witness:
    """A planner, and what it said of its delay while ends were seen."""

    def __init__(self, planner: Planner, ends_a_sample: int = ENDS_A_SAMPLE) -> None:
        self.planner = planner
        self.stated: list[float | None] = []
        self._ends_a_sample = ends_a_sample
        self.ends = 0

    def observed(self, job_id: str, item: Any, headers: Any, sent_at: float, now: float) -> None:
        self.planner.observed(job_id, item, headers, sent_at, now)
        if item["status"] in ("succeeded", "failed", "cancelled"):
            self.ends += 1
            if self.ends % self._ends_a_sample == 0:
                self.stated.append(self.planner.stats(now).expected_delay_seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.planner, name)


def honesty(world: World, planner: Planner) -> float:
    """What was stated of the delay, on average over the run, in relation to what was measured."""
    witness = Witness(planner)
    outcome = simulate(world, witness, seed=1, limit=None)  # type: ignore[arg-type]
    assert outcome.unfinished == 0
    stated = [seconds for seconds in witness.stated if seconds is not None]
    assert len(stated) == len(witness.stated)
    return sum(stated) / len(stated) / outcome.mean_delay_seconds


@pytest.mark.parametrize("name", scaled(["lanes60"], ["lanes60", "heavy", "mix"]))
def test_the_stated_delay_is_honest_in_the_simulator(name: str) -> None:
    world = make(name, 1, JOBS)
    rate = world.requests_per_second(4.0, arrivals=True)
    assert 0.7 < honesty(world, Planner(PlannerConfig(max_requests_per_second=rate, seed=1))) < 1.3


def test_the_stated_delay_is_honest_in_the_sandbox() -> None:
    world = sandbox_world(JOBS, 1, per_second=0.05)
    assert 0.7 < honesty(world, Planner(PlannerConfig(max_requests_per_second=0.5, seed=1))) < 1.3


@pytest.mark.parametrize("seed", scaled([1], [1, 2, 3]))
def test_no_delay_is_stated_before_it_is_known(seed: int) -> None:
    """A sandbox at speed 20 under a relay with the usual settings: the starts in a lane are 3 s apart, not 60."""
    witness = Witness(Planner(PlannerConfig(seed=seed)), ends_a_sample=1)
    world = sandbox_world(36, seed, speed=20.0)
    outcome = simulate(world, witness, seed=seed, limit=Alone(120, seed=seed, starts_at=BEGINNING))  # type: ignore[arg-type]
    assert outcome.unfinished == 0
    assert outcome.mean_delay_seconds > 5  # it is late, and says so as soon as it says something
    assert witness.stated[: MEASURED_ENDS - 1] == [None] * (MEASURED_ENDS - 1)
    last = witness.stated[-1]
    assert last is not None
    assert 0.7 < last / outcome.mean_delay_seconds < 1.3
