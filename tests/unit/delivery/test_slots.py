"""Slots for backlogged deliveries while fresh events arrive."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest

from relay.core.deliveries.concurrency import PROMPT_SECONDS
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.slots import BACKLOGGED_SLOTS, FRESH_SECONDS, Slots, Target
from relay.metrics import Metrics
from relay.node.readiness import measured
from subscribers.base import Kind

NOW = 1_779_271_200.0


class PlainKind(Kind):
    name, signed, rate_per_second = "http", True, None

    @staticmethod
    def redacted_url(url: str) -> str:
        return url


def slots_of(*names: str, alone_seconds: float) -> tuple[Slots, list[Target]]:
    """One target per name, whose sink has answered a request in `alone_seconds`; a fresh event at NOW."""
    slots = Slots(concurrency=256, per_host=64)
    targets = []
    for name in names:
        subscription = Subscription(id=name, sink=f"https://{name}.test/", created_at=NOW, secrets=())
        slots.adopt(subscription, PlainKind())
        target = slots.get(name)
        assert target is not None
        target.sink.concurrency.succeeded(alone_seconds, in_flight=1, full=False)
        targets.append(target)
    slots.fresh_at = NOW
    return slots, targets


def test_backlog_is_limited_only_while_fresh_events_arrive() -> None:
    slots, (target,) = slots_of("one", alone_seconds=0.0)
    assert slots.backlogged_limit(target, NOW) == BACKLOGGED_SLOTS
    assert slots.backlogged_limit(target, NOW + FRESH_SECONDS) == BACKLOGGED_SLOTS
    assert slots.backlogged_limit(target, NOW + FRESH_SECONDS + 1e-3) == math.inf


def test_sinks_share_the_backlog_slots_and_each_gets_one() -> None:
    slots, targets = slots_of(*(f"s{number}" for number in range(3 * BACKLOGGED_SLOTS)), alone_seconds=0.0)
    one, two, *others = targets
    for target in (one, one, two):
        slots.count_backlogged(target, 1)
    limits: list[Any] = [slots.backlogged_limit(target, NOW) for target in (one, two, others[0])]
    assert limits == [BACKLOGGED_SLOTS / 2, BACKLOGGED_SLOTS / 2, BACKLOGGED_SLOTS / 3]
    slots.count_backlogged(one, -1)
    assert slots.backlogged_limit(two, NOW) == BACKLOGGED_SLOTS / 2, "one is still on its way"
    slots.count_backlogged(one, -1)
    assert slots.backlogged_limit(two, NOW) == BACKLOGGED_SLOTS
    for target in targets:
        slots.count_backlogged(target, 1)
    assert slots.backlogged_limit(one, NOW) == 1


def test_failing_or_slow_sink_takes_no_share_from_the_others() -> None:
    slots, (prompt, failing, slow) = slots_of("prompt", "failing", "slow", alone_seconds=0.0)
    failing.sink.failures = 1
    slow.sink.concurrency._alone_seconds = 99 * PROMPT_SECONDS
    for target in (prompt, failing, slow):
        slots.count_backlogged(target, 1)
    assert slots.backlogged_limit(prompt, NOW) == pytest.approx(BACKLOGGED_SLOTS / 1.01)
    for target in (prompt, failing, slow):
        slots.count_backlogged(target, -1)
    assert slots.backlogged_limit(prompt, NOW) == BACKLOGGED_SLOTS


def adopted(slots: Slots, **sinks: str) -> None:
    made = {name: Subscription(id=name, sink=sink, created_at=NOW) for name, sink in sinks.items()}
    for one in made.values():
        slots.adopt(one, PlainKind())


def hosts_of(slots: Slots) -> dict[str, int]:
    return {name: host.in_flight for name, host in slots._hosts.items()}


def test_sink_that_moves_takes_what_it_has_in_flight_to_its_new_host() -> None:
    slots = Slots(concurrency=256, per_host=64)
    adopted(slots, one="https://a.test/1", two="https://a.test/2")
    one, two = slots.get("one"), slots.get("two")
    assert one is not None
    assert two is not None
    for target in (one, one, two):
        slots.occupy(target)
    adopted(slots, one="https://b.test/1")
    assert hosts_of(slots) == {"https://a.test": 1, "https://b.test": 2}
    adopted(slots, two="https://b.test/2")
    assert hosts_of(slots) == {"https://b.test": 3}
    for target in (one, one, two):
        slots.vacate(target)
    assert (hosts_of(slots), slots.in_flight) == ({"https://b.test": 0}, 0)


def test_templates_of_one_owner_leave_half_of_a_host_to_others() -> None:
    slots = Slots(concurrency=256, per_host=8)
    template = {"options": {"template": {}}}
    given: dict[str, dict[str, Any]] = {
        **{f"busy {number}": {"owner": "alpha", "sink": "https://0.test/", **template} for number in range(9)},
        "beta": {"owner": "beta", "sink": "https://0.test/", **template},
        "plain": {"owner": "alpha", "sink": "https://0.test/"},
        "elsewhere": {"owner": "alpha", "sink": "https://1.test/", **template},
    }

    def adopt() -> None:
        for id, values in given.items():
            slots.adopt(Subscription(id=id, **values), PlainKind())

    adopt()
    targets = {id: target for id in given if (target := slots.get(id)) is not None}
    for number in range(4):
        assert slots.free(targets[f"busy {number}"], NOW) == 4 - number
        slots.occupy(targets[f"busy {number}"])
    assert [slots.free(target, NOW) for id, target in targets.items() if id.startswith("busy")] == [0] * 9
    assert (slots.free(targets["beta"], NOW), slots.free(targets["plain"], NOW)) == (4, 4)
    slots.vacate(targets["busy 0"])
    assert slots.free(targets["busy 8"], NOW) == 1
    given["busy 1"].pop("options")
    adopt()
    assert slots.free(targets["busy 8"], NOW) == 2, "its template was removed while a delivery was in flight"
    slots.vacate(targets["busy 1"])
    assert slots.free(targets["busy 8"], NOW) == 2
    given["busy 2"]["sink"] = "https://1.test/"
    adopt()
    assert slots.free(targets["busy 8"], NOW) == 3, "its sink moved while a delivery was in flight"


def test_templates_of_one_owner_leave_half_of_all_slots_to_others_and_sinks_that_hang_leave_them_to_its_own() -> None:
    slots = Slots(concurrency=16, per_host=8)
    template = {"options": {"template": {}}}
    for number in range(4):
        slots.adopt(Subscription(id=f"{number}", sink=f"https://{number}.test/", **template), PlainKind())
    slots.adopt(Subscription(id="other", owner="beta", sink="https://4.test/", **template), PlainKind())
    *own, other = list(slots)
    for _ in range(4):  # all that its host may have
        slots.occupy(own[0])
    assert [slots.free(one, NOW) for one in own] == [0, 4, 4, 4]
    for _ in range(4):
        slots.occupy(own[1])
    assert [slots.free(one, NOW) for one in own] == [0] * 4
    assert slots.free(other, NOW) == 4


def test_owner_whose_templates_had_all_their_slots_gets_a_scan_once_half_are_free() -> None:
    due = asyncio.Event()
    slots = Slots(concurrency=256, per_host=8, due=due)
    for number in range(5):
        one = Subscription(id=f"s{number}", sink="https://receiver.test/", options={"template": {}})
        slots.adopt(one, PlainKind())
    targets = list(slots)
    for target in targets[:4]:
        slots.occupy(target)
    slots.starve(targets[4])
    assert not slots.starved
    for target, expected in zip(targets, (False, True, True, True), strict=False):
        slots.vacate(target)
        assert due.is_set() == expected
    slots.starve(targets[4])
    assert slots.starved, "by others"


def test_slots_in_use_are_the_deliveries_in_flight() -> None:
    slots, (target,) = slots_of("one", alone_seconds=0.001)
    store: Any = SimpleNamespace(database=SimpleNamespace(commit_count=0, item_count=0))
    for count in (1, 2):
        slots.occupy(target)
        assert f"relay_deliveries_in_flight {count}.0" in measured(Metrics(), store, {}, slots, NOW).decode()
    slots.vacate(target)
    assert "relay_deliveries_in_flight 1.0" in measured(Metrics(), store, {}, slots, NOW).decode()
