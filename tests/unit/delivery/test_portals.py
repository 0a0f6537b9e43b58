"""What an account at a CRM allows is shared by all subscriptions that write to it: its pauses and its rate."""

from dataclasses import replace

import pytest

from relay.core.subscriptions.subscription import Subscription
from relay.delivery.slots import STORED_PAUSE_SECONDS, Slots, Target
from subscribers.base import Kind

NOW = 1_779_271_200.0


class Crm(Kind):
    """A kind whose portal is an option, and whose rate is 5 a second."""

    name, signed = "crm", False
    rate_per_second: float | None = 5.0

    @staticmethod
    def redacted_url(url: str) -> str:
        return url

    def portal(self, subscription: Subscription) -> str | None:
        found = subscription.options.get("portal")
        return None if found is None else str(found)


def subscription(id: str, portal: str | None = "acme", **fields: object) -> Subscription:
    values = {"id": id, "sink": "https://crm.test/", "created_at": NOW, "options": {"portal": portal}, **fields}
    return Subscription(**values)  # type: ignore[arg-type]


def adopt(slots: Slots, *subscriptions: Subscription, kind: Kind | None = None) -> list[Target]:
    kind = kind or Crm()
    for one in subscriptions:
        slots.adopt(one, kind)
    return [target for one in subscriptions if (target := slots.get(one.id)) is not None]


def new_slots() -> Slots:
    return Slots(concurrency=256, per_host=64)


def test_new_subscription_joins_the_pause_and_a_moved_one_leaves_it() -> None:
    slots = new_slots()
    first = subscription("a")
    (one,) = adopt(slots, first)
    slots.pause(one, NOW + 60, shared=True)
    (two,) = adopt(slots, subscription("b"))
    assert not two.sink.may_send(NOW)
    moved = replace(first, sink="https://other.test/", options={"portal": "globex"})
    adopt(slots, moved)
    assert one.sink.may_send(NOW), "another sink has not asked for a pause"
    slots.pause(two, NOW + 90, shared=True)
    assert one.sink.may_send(NOW)
    slots.pause(one, NOW + 30, shared=True)
    assert two.sink.may_send(NOW + 90)
    adopt(slots, replace(moved, options={}))
    assert one.portal is None


def test_dry_run_takes_no_turns_of_its_portal_and_none_of_its_pauses() -> None:
    slots = new_slots()
    dry = subscription("b", options={"portal": "acme", "dry_run": True})
    one, other = adopt(slots, subscription("a"), dry)
    slots.pause(one, NOW + 60, shared=True)
    assert other.portal is None, "its turns never end, so it would always come first"
    assert other.sink.may_send(NOW)
    adopt(slots, replace(dry, options={"portal": "acme"}))
    assert other.portal is one.portal is not None
    assert not other.sink.may_send(NOW)
    adopt(slots, dry)
    assert other.portal is None


def test_disabled_subscription_does_not_open_a_paused_portal() -> None:
    slots = new_slots()
    one, _ = adopt(slots, subscription("a"), subscription("b", state="disabled"))
    slots.pause(one, NOW + 60, shared=False)
    assert slots.paused_portals(NOW) == {"crm": 60.0}


@pytest.mark.parametrize(
    ("own", "per_second"), [((None, None), 5.0), ((1.0, 2.0), 5.0), ((None, 20.0), 20.0), ((12.0, 20.0), 20.0)]
)
def test_owner_who_allows_more_raises_the_rate(own: tuple[float | None, ...], per_second: float) -> None:
    slots = new_slots()
    targets = adopt(slots, *(subscription(f"s{nth}", rate_per_second=rate) for nth, rate in enumerate(own)))
    portal = targets[0].portal
    assert portal is not None
    assert portal.per_second == per_second


def test_server_that_claims_to_be_an_account_elsewhere_pauses_no_subscription_of_it() -> None:
    slots = new_slots()
    (one, other) = adopt(slots, subscription("a"), subscription("b", sink="https://evil.test/"))
    slots.pause(other, NOW + 86_400, shared=True)
    assert one.sink.may_send(NOW)
    assert slots.pause_to_store(other, NOW) == ()
    adopt(slots, subscription("b"))
    slots.pause(other, NOW + 60, shared=True)
    assert not one.sink.may_send(NOW), "it was moved to the account itself"


def test_pause_is_stored_for_each_subscription_once() -> None:
    slots = new_slots()
    one, two, three = adopt(slots, subscription("a"), subscription("b"), subscription("c"))
    slots.pause(one, NOW + STORED_PAUSE_SECONDS - 0.1, shared=True)
    assert slots.pause_to_store(one, NOW) == (), "it is over before another node has read it"
    slots.pause(one, NOW + 60, shared=True)
    others = slots.pause_to_store(one, NOW)
    assert set(others) == {two, three}
    for other in others:
        other.sink.pause_stored(NOW + 60)
    slots.pause(two, NOW + 60.4, shared=True)
    assert slots.pause_to_store(two, NOW) == (one,), "its own row is written by its own attempt"
    slots.pause(two, NOW + 600, shared=True)
    assert set(slots.pause_to_store(two, NOW)) == {one, three}


def test_clock_that_was_set_back_does_not_stop_a_portal() -> None:
    slots = new_slots()
    (one,) = adopt(slots, subscription("a"))
    assert one.portal is not None
    assert one.portal.take_turn(NOW)
    assert one.portal.take_turn(NOW - 3600)
    assert not one.portal.take_turn(NOW - 3600)
