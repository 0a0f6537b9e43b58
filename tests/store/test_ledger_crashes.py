"""A write that must not happen twice, on a node that dies at any line and with a sink whose answers are lost: the sink
has one record of the event, or the delivery is uncertain and told. On both databases, with a kind of one record.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import Delivery, OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, Step, Steps
from relay.core.deliveries.replay import ReplayRequest
from relay.core.deliveries.retry import http_outcome
from relay.core.events.event import Event
from relay.core.jobs.job import Recipient
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.dispatcher import Dispatcher
from relay.errors import StoreError
from relay.store.deliveries.deliveries import DeliveryStore
from relay.store.deliveries.memories import MemoryStore
from relay.store.store import Store
from relay.testing import FakeClock
from subscribers.base import Dialogue, RenderContext
from subscribers.webhook import Webhook
from tests.support.delivery_kit import only, parts_of, shared
from tests.support.store_kit import NOW, poll, rows, subscription, track

SINK = "https://acme.test/"
SCHEDULE = (5.0, 60.0, 300.0)
LEASE_SECONDS = 120.0
"""More than that of an attempt with a time-out of 30 s."""
PERSON = Recipient(address="alex@example.com")


class Killed(BaseException):
    """kill -9: nothing after this line runs."""


class Notes(Webhook):
    """Finds a person, then writes one note about each event."""

    wants_recipient_of: bool = True

    def wants_recipient(self, subscription: Subscription) -> bool:
        return self.wants_recipient_of

    def dialogue(self, subscription: Subscription) -> Dialogue | None:
        return Dialogue(key=lambda event, _: ledger.event_key(event.id), steps=_steps)


def _steps(event: Event, subscription: Subscription, context: RenderContext, memory: Memory, now: float) -> Steps:
    entry = ledger.read_entry(memory)
    if entry is not None and entry.state == "done":
        return Ended(outcome=ledger.WRITTEN)
    whom = "nobody" if context.recipient is None else context.recipient.address
    if unmatched := subscription.options.get("unmatched"):
        pause = None if unmatched is True else unmatched
        return Ended(outcome=Outcome(verdict="skip", reason="unmatched", retry_after_seconds=pause))
    found = yield Step(request=_request("GET", f"person?email={whom}"), name="person", private=True)
    if found.status_code != 200:
        outcome = http_outcome(found, now)
        return Ended(outcome=outcome if entry is None else ledger.still_in_doubt(outcome))
    if entry is not None:
        if entry.portal != urlsplit(subscription.sink).netloc:
            return Ended(outcome=ledger.uncertain("portal_changed"))
        listed = yield Step(request=_request("GET", "notes"), name="ask", private=True)
        if listed.status_code != 200:
            return Ended(outcome=ledger.still_in_doubt(http_outcome(listed, now)))
        if event.id.encode() in listed.excerpt:
            return Ended(outcome=Outcome(verdict="delivered", reason="found"), remember=entry.done().memory())
        if entry.settles_in(now):
            outcome, kept = entry.waiting(now)
            return Ended(outcome=outcome, remember=kept)
    entry = ledger.Entry(record="note", target={"deal_id": 7}, portal="acme.test", at=now)
    body = orjson.dumps({"key": event.id, "to": whom})
    written = yield Step(request=_request("POST", "notes", body), name="notes", remember=entry.memory(), private=True)
    if written.status_code == 201:
        return Ended(outcome=Outcome(verdict="delivered", reason="http_201"), remember=entry.done(1).memory())
    outcome = http_outcome(written, now)
    if ledger.is_doubtful(written):
        return Ended(outcome=replace(outcome, in_doubt=True))
    return Ended(outcome=outcome, remember=ledger.CLEARED)


def _request(method: str, path: str, body: bytes = b"") -> OutboundRequest:
    return OutboundRequest(url=SINK + path, method=method, body=body)


@dataclass
class Crm:
    """The sink. `script`: what happens to the next requests of a path: before or after they are carried out."""

    clock: FakeClock
    notes: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    script: dict[str, list[Any]] = field(default_factory=dict)

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        name = f"{request.method} {urlsplit(request.url).path}"
        self.asked[name] += 1
        await asyncio.sleep(0)
        fate = script.pop(0) if (script := self.script.get(name)) else "ok"
        if fate == "killed before":
            raise Killed
        if isinstance(fate, int | str) and fate in (401, 429, 500, "connect"):
            return self._answer(fate)
        if request.method == "POST":
            self.notes.append(orjson.loads(request.body)["key"])
        if fate == "killed after":
            raise Killed
        if fate == "lost":
            return self._answer("timeout")
        if fate == "broken":
            return self._answer(500)
        excerpt = orjson.dumps(self.notes) if name == "GET /notes" else b"{}"
        return replace(self._answer(201 if request.method == "POST" else 200), excerpt=excerpt)

    def _answer(self, said: int | str) -> Response:
        error = said if isinstance(said, str) else None
        status = said if isinstance(said, int) else None
        return Response(started_at=self.clock(), duration_ms=1.0, status_code=status, error=error)

    @property
    def writes(self) -> int:
        return self.asked["POST /notes"]


class World:
    """A node, which may die and start again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = FakeClock(NOW)
        self.crm = Crm(self.clock)
        self.kind = Notes()
        self.recipients: list[str] = []
        self.node = self._node()

    def _node(self) -> Dispatcher:
        async def recipient(job_uid: str) -> Recipient | None:
            self.recipients.append(job_uid)
            return PERSON

        store = parts_of(self.store, jobs=SimpleNamespace(recipient=recipient))
        return Dispatcher(shared(store, self.clock, self.crm, kinds=only(self.kind)))

    async def event(self, *statuses: str, **fields: Any) -> None:
        values = {"sink": SINK, "created_at": NOW, "retry_schedule_seconds": SCHEDULE, **fields}
        await self.store.subscriptions.create(subscription("sub_1", **values))
        uid = await track(self.store)
        await self.store.jobs.record(poll(uid, 0, *(statuses or ("failed",))))

    async def scan(self) -> None:
        await self.store.subscriptions.find_changes()
        await self.node.run_once()
        await self.node.drain()

    async def restart(self, database_url: str) -> None:
        """The node has died and starts again. What it held is free at once for a SQLite file, else with its lease."""
        if database_url.startswith("sqlite"):
            await self.store.recover_from_crash(self.clock())
        else:
            self.clock.advance(LEASE_SECONDS)
        self.node = self._node()

    async def run(self, seconds: float = 1200.0, step: float = 10.0) -> None:
        for _ in range(int(seconds / step)):
            await self.scan()
            self.clock.advance(step)

    async def deliveries(self) -> list[Delivery]:
        page = await self.store.deliveries.page(limit=9)
        found = [await self.store.deliveries.get(one.id) for one in reversed(page.items)]
        return [one for one in found if one is not None]

    async def the_one(self) -> Delivery:
        (one,) = await self.deliveries()
        return one

    async def memory(self) -> Mapping[str, Any] | None:
        found = await rows(self.store, "SELECT data FROM sink_memories")
        return orjson.loads(found[0]["data"]) if found else None

    async def told(self) -> list[Mapping[str, Any]]:
        found = (await self.store.events.tail(0)).events
        return [event.document()["data"] for _, event in found if event.type == "relay.delivery.uncertain"]


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def kill_at(patch: pytest.MonkeyPatch, owner: type, name: str, *, after: bool) -> None:
    """The next call of a method of the store ends with kill -9: before or after its commit."""
    method = getattr(owner, name)
    alive = [True]

    async def dying(self: Any, *values: Any) -> Any:
        if not alive.pop() if alive else False:
            raise AssertionError
        patch.setattr(owner, name, method)
        if after:
            await method(self, *values)
        raise Killed

    patch.setattr(owner, name, dying)


SENT_ONCE: Mapping[str, Callable[[World, pytest.MonkeyPatch], Any]] = {
    "in a look-up": lambda world, _: world.crm.script.update({"GET /person": ["killed before"]}),
    "before the intent is stored": lambda _, patch: kill_at(patch, MemoryStore, "keep", after=False),
    "once the intent is stored": lambda _, patch: kill_at(patch, MemoryStore, "keep", after=True),
    "while the write is sent": lambda world, _: world.crm.script.update({"POST /notes": ["killed before"]}),
    "before the answer": lambda world, _: world.crm.script.update({"POST /notes": ["killed after"]}),
    "before the attempt is recorded": lambda _, patch: kill_at(patch, DeliveryStore, "record", after=False),
    "once the attempt is recorded": lambda _, patch: kill_at(patch, DeliveryStore, "record", after=True),
    "twice": lambda world, _: world.crm.script.update(
        {"POST /notes": ["killed after"], "GET /notes": ["killed before"]}
    ),
}


@pytest.mark.parametrize("where", SENT_ONCE)
async def test_node_that_dies_writes_no_note_twice_and_loses_none(
    world: World, where: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.event()
    SENT_ONCE[where](world, monkeypatch)
    for _ in range(2):
        await world.scan()
        await world.restart(database_url)
    await world.run()
    one = await world.the_one()
    assert one.state == "delivered"
    assert world.crm.notes == [one.event_id]
    memory = await world.memory()
    assert memory is not None
    assert memory["state"] == "done"
    assert await world.told() == []
    assert world.crm.writes == (2 if where == "while the write is sent" else 1)


@pytest.mark.parametrize("fate", ["lost", "broken"])
async def test_lost_answer_is_asked_for_and_nothing_is_written_again(world: World, fate: str) -> None:
    await world.event()
    world.crm.script["POST /notes"] = [fate]
    await world.scan()
    waiting = await world.the_one()
    assert (waiting.state, waiting.next_attempt_at) == ("pending", NOW + 5)
    await world.run()
    one = await world.the_one()
    assert (one.state, one.reason) == ("delivered", "found")
    assert (world.crm.notes, world.crm.writes) == ([one.event_id], 1)


async def test_absence_counts_only_once_the_write_has_settled_and_nobody_else_waits(world: World) -> None:
    await world.event()
    world.crm.script["POST /notes"] = [500]  # it never arrives
    await world.scan()
    world.clock.advance(5.0)
    await world.scan()
    one = await world.the_one()
    assert one.next_attempt_at == NOW + ledger.SETTLE_SECONDS
    assert one.attempts[-1].decision is not None
    assert "which is not there yet" in one.attempts[-1].decision
    found = await world.store.subscriptions.get("sub_1")
    assert found is not None
    assert found.paused_until is None
    world.clock.advance(ledger.SETTLE_SECONDS)
    await world.scan()
    one = await world.the_one()
    assert (one.state, world.crm.notes, world.crm.writes) == ("delivered", [one.event_id], 2)


async def test_write_that_was_never_sent_is_not_in_doubt(world: World) -> None:
    await world.event()
    world.crm.script["POST /notes"] = ["connect"]
    await world.scan()
    assert await world.memory() == {}
    world.clock.advance(5.0)
    await world.scan()
    assert ((await world.the_one()).state, world.crm.asked["GET /notes"]) == ("delivered", 0)


@pytest.mark.parametrize("fails", ["the database", "another delivery has the turn"])
async def test_nothing_is_sent_unless_the_intent_is_stored(
    world: World, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.event()

    async def keep(*_: Any) -> bool:
        if fails == "the database":
            raise StoreError("the disk is full")
        return False

    with monkeypatch.context() as broken:
        broken.setattr(MemoryStore, "keep", keep)
        await world.scan()
    one = await world.the_one()
    assert (one.state, one.reason, world.crm.writes) == ("pending", "not_stored", 0)
    world.clock.advance(5.0)
    await world.scan()
    assert ((await world.the_one()).state, world.crm.writes) == ("delivered", 1)


async def test_delivery_is_uncertain_once_nobody_can_tell_and_its_follower_goes(world: World) -> None:
    await world.event("running", "failed")
    world.crm.script |= {"POST /notes": ["lost"], "GET /notes": [429, 500, 401, 429]}
    await world.run(seconds=600)
    first, second = sorted(await world.deliveries(), key=lambda one: one.event_type, reverse=True)
    assert (first.state, first.reason, len(first.attempts)) == ("uncertain", "http_401", 4)
    assert (second.state, world.crm.notes) == ("delivered", [first.event_id, second.event_id])
    (told,) = await world.told()
    assert (told["delivery"], told["reason"], told["record"], told["target"]) == (
        first.id,
        "exhausted",
        "note",
        {"deal_id": 7},
    )
    assert told["attempts"] == 4
    kinds = {event.type for _, event in (await world.store.events.tail(0)).events}
    assert not {kind for kind in kinds if "expired" in kind or "incident" in kind}


async def test_write_in_another_portal_is_uncertain_at_once(world: World) -> None:
    await world.event()
    world.crm.script["POST /notes"] = ["lost"]
    await world.scan()
    found = await world.store.subscriptions.get("sub_1")
    assert found is not None
    await world.store.subscriptions.replace(replace(found, sink="https://globex.test/"), NOW)
    world.clock.advance(5.0)
    await world.scan()
    one = await world.the_one()
    assert (one.state, one.reason, world.crm.writes) == ("uncertain", "portal_changed", 1)
    (told,) = await world.told()
    assert told["reason"] == "cannot_tell"


async def uncertain(world: World) -> Delivery:
    """A delivery of which nobody can tell what came of it: the note is there."""
    await world.event()
    world.crm.script |= {"POST /notes": ["lost"], "GET /notes": [500] * 9}
    await world.run(seconds=600)
    world.crm.script.clear()
    one = await world.the_one()
    assert one.state == "uncertain"
    return one


async def test_replay_of_an_uncertain_delivery_asks_again(world: World) -> None:
    await uncertain(world)
    now = world.clock()
    request = ReplayRequest(id="rpl_1", subscription_id="sub_1", since=NOW - 9, until=now, now=now)
    assert (await world.store.replays.create(request)).matched == 1
    await world.store.replays.advance("rpl_1", "node", now)
    await world.scan()
    again = await world.the_one()
    assert (again.state, again.reason, world.crm.writes) == ("delivered", "found", 1)


async def test_delivery_that_a_person_found_is_delivered_and_never_sent_again(world: World) -> None:
    one = await uncertain(world)
    settled = await world.store.deliveries.settle(one.id, "sent", world.clock())
    assert (settled.state, settled.reason, settled.ended_at) == ("delivered", "settled", world.clock())
    await world.store.deliveries.retry(one.id, world.clock())
    asked = dict(world.crm.asked)
    await world.scan()
    again = await world.the_one()
    assert (again.state, again.reason, dict(world.crm.asked)) == ("delivered", "already_written", asked)
    assert again.attempts[-1].decision == "already written: nothing was sent"


# --- dry run, skipped, and whom the create names


async def test_dry_run_records_what_would_be_sent_and_sends_nothing(world: World) -> None:
    await world.event(options={"dry_run": True})
    await world.scan()
    one = await world.the_one()
    assert (one.state, one.reason, await world.memory()) == ("delivered", "dry_run", None)
    (attempt,) = one.attempts
    assert attempt.decision == "dry run: nothing was sent; it would be 2 requests: person, notes"
    assert (attempt.status_code, attempt.error) == (None, None)
    assert attempt.requests is not None
    assert [(made.method, made.url) for made in attempt.requests] == [
        ("GET", "https://acme.test/person?…"),
        ("POST", "https://acme.test/notes"),
    ]
    assert orjson.loads(attempt.requests[1].body) == {"key": one.event_id, "to": "{recipient.address}"}
    assert "alex" not in repr(one)
    assert not world.crm.asked


@pytest.mark.parametrize("option", ["dry_run", "unmatched"])
async def test_probe_that_sends_nothing_enables_no_subscription(world: World, option: str) -> None:
    world.crm.script["GET /person"] = [401]
    await world.event(options={option: True})
    await world.store.subscriptions.set_state("sub_1", "disabled", NOW, "only failures")
    await world.store.database.write(_probe_now, None)
    await world.run(seconds=30)
    one = await world.the_one()
    assert one.state == ("delivered" if option == "dry_run" else "cancelled")
    found = await world.store.subscriptions.get("sub_1")
    assert found is not None
    assert (found.state, world.crm.asked) == ("disabled", {})
    assert found.probe_at is not None
    assert found.probe_at <= NOW + 61


async def test_skipped_event_keeps_why_its_sink_fails_and_may_pause_it(world: World) -> None:
    await world.event(options={"unmatched": 60.0})
    failing = {"failing_since": NOW - 5, "failing_reason": "http_500"}
    await world.store.subscriptions.set_sink_health("sub_1", **failing, paused_until=None)
    await world.scan()
    found = await world.store.subscriptions.get("sub_1")
    assert found is not None
    assert (found.failing_since, found.failing_reason, found.paused_until) == (NOW - 5, "http_500", NOW + 60)
    assert (await world.the_one()).state == "cancelled"


async def test_recipient_that_cannot_be_read_is_a_failed_attempt_of_a_write_in_doubt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.event()
    world.crm.script["POST /notes"] = ["lost"]
    await world.scan()

    async def broken(_: str) -> Recipient | None:
        raise ValueError("alex@example.com")

    monkeypatch.setattr(world.node.shared.store.jobs, "recipient", broken)
    await world.run()
    one = await world.the_one()
    assert (one.state, one.reason, world.crm.writes) == ("uncertain", "render", 1)
    assert "alex" not in repr(one)


def _probe_now(connection: Any, items: Any) -> list[None]:
    connection.exec_driver_sql("UPDATE subscriptions SET probe_at = 0")
    return [None for _ in items]
