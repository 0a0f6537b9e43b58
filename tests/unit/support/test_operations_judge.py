"""The judge of the random operations finds each kind of broken promise in an otherwise perfect run."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.operations_judge import Recorded, judge
from tests.support.operations_world import Arrival, Sinks, Subscribed, Tracked, Window, World

KINDS = ("queued", "running", "succeeded")
SINK, CALLBACK, ROUGH = "/sink/1", "/callback/2", "/sink/3"


def perfect() -> tuple[World, list[Recorded], dict[str, Any]]:
    """One job with a callback, one subscription for everything, and one that takes only the end."""
    world = World(nodes=(), sinks=Sinks(rng=random.Random(1)), sinks_url="", sandbox_url="", session=None, rng=None)  # type: ignore[arg-type]
    world.jobs = [Tracked(id="job", registered=[Window(10, 11)], callbacks={CALLBACK: Window(10, 11)})]
    world.subscriptions = [
        Subscribed(id="1", path=SINK, made=Window(0, 1), types=[(Window(0, 1), None)], verifiers=[], clean=True),
        Subscribed(
            id="3",
            path=ROUGH,
            made=Window(0, 1),
            types=[(Window(0, 1), frozenset({"succeeded"}))],
            verifiers=[],
            clean=False,
        ),
    ]
    events = [
        Recorded(id=f"evt_{n}", subject="job", sequence=n, type=kind, recorded_at=10.0 + 10 * n)
        for n, kind in enumerate(KINDS, 1)
    ]
    world.streamed = {event.id for event in events}
    for event in events:
        for path in (SINK, CALLBACK, *([ROUGH] if event.type == "succeeded" else [])):
            world.sinks.arrivals.append(arrival(event, path, event.recorded_at + 0.1))
    truth = {
        "transitions": [{"status": kind, "failed_attempt": None} for kind in KINDS],
        "final_item": {"started_at": "2026-05-20T10:00:01.000Z"},
    }
    return world, events, {"job": truth}


def arrival(event: Recorded, path: str, at: float) -> Arrival:
    return Arrival(
        path=path,
        event_id=event.id,
        subject=event.subject,
        sequence=event.sequence,
        type=event.type,
        body_digest=event.id,
        came_at=at,
        accepted_at=at + 0.01,
    )


Change = Callable[[World, list[Recorded]], object]


def drop(path: str, sequence: int) -> Change:
    """The event never comes there."""

    def change(world: World, events: list[Recorded]) -> None:
        kept = [each for each in world.sinks.arrivals if (each.path, each.sequence) != (path, sequence)]
        world.sinks.arrivals = kept

    return change


def refuse(path: str, sequence: int) -> Change:
    """The event comes there, and is never accepted."""

    def change(world: World, events: list[Recorded]) -> None:
        for each in world.sinks.arrivals:
            if (each.path, each.sequence) == (path, sequence):
                each.accepted_at = None

    return change


def add(sequence: int, path: str, at: float) -> Change:
    return lambda world, events: world.sinks.arrivals.append(arrival(events[sequence - 1], path, at))


def reorder(world: World, events: list[Recorded]) -> None:
    """The first event comes to the clean subscription after the second."""
    world.sinks.arrivals.sort(key=lambda each: (each.path, -each.sequence))
    for at, each in enumerate(world.sinks.arrivals):
        each.came_at = each.accepted_at = 50.0 + at


def lose_end(world: World, events: list[Recorded]) -> None:
    """The job's end is neither recorded nor sent."""
    lost = events.pop()
    world.sinks.arrivals = [each for each in world.sinks.arrivals if each.event_id != lost.id]


def swap(world: World, events: list[Recorded]) -> None:
    """`running` is recorded before `queued`."""
    first, second = events[:2]
    events[:2] = [
        Recorded(id=first.id, subject="job", sequence=1, type="running", recorded_at=20),
        Recorded(id=second.id, subject="job", sequence=2, type="queued", recorded_at=30),
    ]


def remove(world: World, events: list[Recorded]) -> None:
    world.subscriptions[0].removed = Window(12, 13)


def purge(world: World, events: list[Recorded]) -> None:
    world.jobs[0].purged.append(Window(12, 13))
    events.clear()


def other_body(world: World, events: list[Recorded]) -> None:
    world.sinks.arrivals[0].body_digest = "another"


def second_event(world: World, events: list[Recorded]) -> None:
    events.append(Recorded(id="evt_9", subject="job", sequence=3, type="succeeded", recorded_at=41))
    world.streamed.add("evt_9")


BROKEN: dict[str, tuple[Change, str]] = {
    "an event that a subscription never gets": (drop(SINK, 3), "never got succeeded"),
    "an event that a subscription with types never gets": (drop(ROUGH, 3), "never got succeeded"),
    "an event that a callback never gets": (drop(CALLBACK, 1), "never got queued"),
    "an event that is never accepted": (refuse(CALLBACK, 3), "never got succeeded"),
    "events out of order": (reorder, "before 1"),
    "an event that comes twice without a kill": (add(1, SINK, 25.0), "again after"),
    "an event that no filter takes": (add(1, ROUGH, 25.0), "which no filter"),
    "an event of another job at a callback": (add(1, "/callback/7", 25.0), "got an event of job"),
    "an end that is not recorded": (lose_end, "succeeded is missing"),
    "states recorded in another order than the true one": (swap, "truly"),
    "a second event for a transition": (second_event, "has the sequences"),
    "two bodies under one id": (other_body, "two bodies"),
    "a removed subscription that gets an event": (remove, "was removed"),
    "a purged job of which events arrive": (purge, "was purged"),
    "an event that the stream skips": (lambda world, events: world.streamed.discard("evt_2"), "never streamed"),
    "an event that the stream repeats": (lambda world, events: world.stream_repeats.append("evt_1"), "streamed twice"),
    "a signature that does not verify": (lambda world, events: world.sinks.unread.add("x"), "not signed"),
}


def test_perfect_run_has_no_findings() -> None:
    assert judge(*perfect()) == []


@pytest.mark.parametrize("name", BROKEN)
def test_broken_promise_is_found(name: str) -> None:
    change, words = BROKEN[name]
    world, events, truths = perfect()
    change(world, events)
    assert any(words in finding for finding in judge(world, events, truths)), judge(world, events, truths)


def test_event_that_comes_again_after_a_kill_is_no_finding() -> None:
    world, events, truths = perfect()
    add(1, SINK, 25.0)(world, events)
    world.deaths.append((20.5, 20.6))
    assert judge(world, events, truths) == []


def test_subscription_that_may_not_have_existed_yet_owes_nothing() -> None:
    world, events, truths = perfect()
    world.subscriptions[0].made.answered_at = 19.0
    drop(SINK, 1)(world, events)
    assert judge(world, events, truths) == []


OF_ONE, OF_THE_OTHER = frozenset({"queued"}), frozenset({"succeeded"})


@pytest.mark.parametrize(
    ("one", "other", "owed"),
    [
        (Window(2, 3), Window(4, 5), True),
        (Window(2, 5), Window(3, 4), False),
        (Window(2, 4), Window(3, 5), False),
        (Window(2, 3), Window(4, 39), False),
    ],
    ids=["after it", "within it", "into it", "until the event"],
)
def test_types_are_owed_only_if_they_surely_came_last(one: Window, other: Window, owed: bool) -> None:
    world, events, truths = perfect()
    world.subscriptions[1].types += [(one, OF_ONE), (other, OF_THE_OTHER)]
    drop(ROUGH, 3)(world, events)
    found = judge(world, events, truths)
    assert any("never got succeeded" in finding for finding in found) == owed, found
