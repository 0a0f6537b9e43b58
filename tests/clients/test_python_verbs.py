"""Every verb of the Python client against a running relay, sync and async from one table."""

import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from revor_relay_client import EventsRejected, RelayError, WaitTimeout, _core
from tests.support.client_world import FLAVOURS, Caller, Losing
from tests.support.cut_proxy import cut_proxy
from tests.support.relay_world import RelayWorld

pytestmark = [pytest.mark.verify, pytest.mark.asyncio(loop_scope="module")]

PAID = "com.acme.order.paid"
Case = Callable[[Caller, RelayWorld], Awaitable[None]]
Make = Callable[..., Caller]


@pytest_asyncio.fixture(loop_scope="module")
async def called() -> AsyncIterator[Make]:
    """Makes clients, and closes them."""
    made: list[Caller] = []

    def make(*arguments: Any, **options: Any) -> Caller:
        made.append(Caller(*arguments, **options))
        return made[-1]

    yield make
    for caller in made:
        await caller.close()


def new(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:12]}"


async def tracks_a_job_once(caller: Caller, world: RelayWorld) -> None:
    job_id = await world.upstream_job()
    first = await caller.do("track", job_id, metadata={"deal": 42}, group="Q4")
    again = await caller.do("track", job_id)
    assert (first.id, first.metadata, first.group) == (job_id, {"deal": 42}, "Q4")
    assert again.uid == first.uid


async def waits_for_the_end(caller: Caller, world: RelayWorld) -> None:
    job_id = await world.upstream_job(final="failed")
    await caller.do("track", job_id)
    job = await caller.do("wait", job_id, timeout_seconds=120)
    assert (job.open, job.outcome) == (False, "failed")
    assert job.problem.fix


async def tells_that_a_wait_took_too_long(caller: Caller, world: RelayWorld) -> None:
    job_id = await world.upstream_job(run_seconds=86_400)
    await caller.do("track", job_id)
    with pytest.raises(WaitTimeout) as raised:
        await caller.do("wait", job_id, timeout_seconds=0.2)
    assert raised.value.job.id == job_id
    assert "has not ended: it is " in str(raised.value)


async def says_why_a_job_does_not_end(caller: Caller, world: RelayWorld) -> None:
    job_id = new("unknown")
    await caller.do("track", job_id)

    async def is_polled() -> bool:
        return (await world.get(f"/v1/jobs/{job_id}"))["last_error"] is not None

    await world.until(is_polled)
    with pytest.raises(WaitTimeout, match="has not ended: the relay's last poll failed with 'external_api_job_not_fo"):
        await caller.do("wait", job_id, timeout_seconds=0)


async def streams_a_job_to_its_last_event(caller: Caller, world: RelayWorld) -> None:
    job_id = await world.upstream_job()
    await caller.do("track", job_id)
    events = await caller.events("stream", job_id)
    assert events[-1].type == "ai.revor.job.succeeded"
    assert [event.model_extra["sequence"] for event in events] == [f"{n + 1:010}" for n in range(len(events))]
    later = await caller.events("stream", job_id, after=events[0].relay_id)
    assert [event.key for event in later] == [event.key for event in events[1:]]


async def streams_a_job_that_is_not_polled_any_more(caller: Caller, world: RelayWorld) -> None:
    job_id = await world.job()
    await caller.do("wait", job_id)
    first = await caller.events("stream", job_id)
    assert await caller.events("stream", job_id, after=first[-1].relay_id) == []


async def publishes_and_pulls(caller: Caller, world: RelayWorld) -> None:
    subscribed = await caller.do("subscribe", new("pull"), types=[PAID])
    assert subscribed.action == "add"
    sent = [{"type": PAID, "source": "/shop", "subject": str(n), "partitionkey": "p"} for n in range(3)]
    one = await caller.do("publish", sent[0])
    two = await caller.do("publish", *sent[1:])
    assert (one.accepted, two.accepted) == (1, 2)
    got = await caller.events("pull", subscribed.id, limit=3)
    assert [event.subject for event in got] == ["0", "1", "2"]
    assert [event.relay_id for event in got] == [item.id for item in (*one.items, *two.items)]
    assert await caller.events("pull", subscribed.id, idle_seconds=0) == []


async def names_the_event_that_was_not_taken(caller: Caller, world: RelayWorld) -> None:
    with pytest.raises(EventsRejected) as raised:
        await caller.do("publish", {"type": PAID, "source": "/shop"}, {"type": "relay.test", "source": "/shop"})
    assert raised.value.result.accepted == 1
    assert [one.index for one in raised.value.result.rejected] == [1]


async def subscribes_once_by_id(caller: Caller, world: RelayWorld) -> None:
    id = new("hook")
    answers = [
        await caller.do("subscribe", id, world.sink_url, types=types) for types in (["failed"], ["failed"], None)
    ]
    assert [answer.action for answer in answers] == ["add", "unchanged", "change"]
    assert len({answer.secret for answer in answers}) == 1
    assert answers[0].secret.startswith("whsec_")


async def gets_a_signed_request_and_verifies_it(caller: Caller, world: RelayWorld) -> None:
    job_id = await world.job(final="failed")
    signed = await caller.do("signed_request", job_id, "failed")
    event = caller.relay.verify(signed.body, signed.headers, signed.secret)
    assert (event.subject, event.type, event.relay_id) == (job_id, "ai.revor.job.failed", event.id)
    listed = await world.get("/v1/subscriptions?limit=500")
    assert not [one for one in listed["items"] if (one["description"] or "").startswith("revor-relay-client")]


async def tells_that_the_awaited_event_did_not_come(caller: Caller, world: RelayWorld) -> None:
    job_id = await world.job()
    await caller.do("wait", job_id)
    with pytest.raises(WaitTimeout, match=r"no 'failed' of job .* came within 0\.1 s: it has ended as succeeded"):
        await caller.do("signed_request", job_id, "failed", timeout_seconds=0.1)


async def tells_what_was_refused(caller: Caller, world: RelayWorld) -> None:
    with pytest.raises(RelayError) as raised:
        await caller.do("wait", "no such job")
    error = raised.value
    assert (error.status, error.code) == (404, "job_not_found")
    assert error.request_id.startswith("req_")
    with pytest.raises(RelayError) as raised:
        await caller.do("track", "x", colour="green")
    assert (raised.value.status, raised.value.mistakes[0].pointer) == (422, "/colour")


CASES: tuple[Case, ...] = (
    tracks_a_job_once,
    waits_for_the_end,
    tells_that_a_wait_took_too_long,
    says_why_a_job_does_not_end,
    streams_a_job_to_its_last_event,
    streams_a_job_that_is_not_polled_any_more,
    publishes_and_pulls,
    names_the_event_that_was_not_taken,
    subscribes_once_by_id,
    gets_a_signed_request_and_verifies_it,
    tells_that_the_awaited_event_did_not_come,
    tells_what_was_refused,
)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_verb(case: Case, flavour: str, world: RelayWorld, called: Make) -> None:
    await case(called(flavour, world.url), world)


async def test_wait_logs_a_failing_poll_once_and_soon(world: RelayWorld, caplog: pytest.LogCaptureFixture) -> None:
    open_job = await world.get(f"/v1/jobs/{await world.job(run_seconds=86_400)}")
    failing = {"code": "job_unknown", "message": "no", "request_id": None, "at": None}
    steps = _core.Core(world.url, "").wait("a", None)
    asked = next(steps)
    with caplog.at_level(logging.WARNING):
        for error in (None, failing, failing, {**failing, "code": "key_revoked"}):
            assert isinstance(asked, _core.Send)
            answer = _core.Answer(200, {}, json.dumps({**open_job, "last_error": error}).encode())
            assert isinstance(steps.send(answer), _core.Pause)
            asked, before = steps.send(None), asked
    assert before.headers["Prefer"] == f"wait={_core.WAIT_SECONDS}"
    why = "job 'a' has not ended: the relay's last poll failed with"
    assert caplog.messages == [f"{why} 'job_unknown'", f"{why} 'key_revoked'"]


# --- a connection that is cut


CREATES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "track": (("JOB",), {}),
    "publish": (({"type": PAID, "source": "/shop", "subject": "cut"},), {}),
    "subscribe": (("SUBSCRIPTION",), {"types": [PAID]}),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("verb", CREATES)
async def test_lost_answer_makes_no_second_resource(verb: str, flavour: str, world: RelayWorld, called: Make) -> None:
    losing = Losing(lambda request: request.method == "POST")
    cut = called(flavour, world.url, transport=losing.transport(flavour))
    places = {"JOB": await world.upstream_job(), "SUBSCRIPTION": new("cut")}
    arguments, fields = CREATES[verb]
    watcher = (await cut.do("subscribe", new("watch"), types=[PAID])).id if verb == "publish" else ""
    losing.seen.clear()
    made = await cut.do(verb, *[places.get(one, one) if isinstance(one, str) else one for one in arguments], **fields)
    first, second = losing.seen
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.content == second.content
    if verb == "track":
        jobs = (await world.get("/v1/jobs?limit=500"))["items"]
        assert [one["id"] for one in jobs].count(places["JOB"]) == 1
    elif verb == "publish":
        got = await cut.events("pull", watcher, idle_seconds=1)
        assert [event.relay_id for event in got] == [made.items[0].id]
    else:
        listed = (await world.get("/v1/subscriptions?limit=500"))["items"]
        assert [one["id"] for one in listed].count(places["SUBSCRIPTION"]) == 1
        assert made.action == "add"


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_stream_and_wait_go_on_after_a_cut(flavour: str, world: RelayWorld, called: Make) -> None:
    """The proxy is cut at the first event, and takes connections again at once."""
    with cut_proxy(httpx.URL(world.url).port or 0) as proxy:
        caller = called(flavour, f"http://127.0.0.1:{proxy.port}")
        job_id = await world.job(attempt_failures=3, retry_pause_seconds=60, run_seconds=60)
        seen: list[str] = []

        def cut(event: Any) -> None:
            seen.append(event.relay_id)
            if len(seen) == 1:
                proxy.cut()
                proxy.join()

        events = await caller.events("stream", job_id, on=cut)
        numbers = [event.model_extra["sequence"] for event in events]
        assert numbers == [f"{n + 1:010}" for n in range(len(numbers))], "none is missing, none comes twice"
        proxy.cut()
        proxy.join()
        assert (await caller.do("wait", job_id)).outcome == "succeeded"


# --- pull: at least once


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_event_comes_again_unless_its_handling_ended_well(flavour: str, world: RelayWorld, called: Make) -> None:
    caller = called(flavour, world.url)
    id = (await caller.do("subscribe", new("again"), types=[PAID], config={"retry_schedule": [0.1] * 10})).id
    in_order = {"type": PAID, "source": "/shop", "partitionkey": "one"}
    await caller.do("publish", *[{**in_order, "subject": str(n)} for n in range(2)])

    async def subjects(**fields: Any) -> list[str]:
        return [event.subject for event in await caller.events("pull", id, **fields)]

    def fail(event: Any) -> None:
        raise RuntimeError(event.subject)

    assert await subjects(count=1) == ["0"], "left by break: it was not acknowledged"
    with pytest.raises(RuntimeError):
        await caller.events("pull", id, on=fail)
    got = await caller.events("pull", id, limit=2)
    assert sorted(event.subject for event in got) == ["0", "1"]
    assert {event.subject: event.attempt_number > 1 for event in got} == {"0": True, "1": False}
    assert await subjects(idle_seconds=0) == []


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_lost_acknowledgement_hands_the_event_out_again(flavour: str, world: RelayWorld, called: Make) -> None:
    losing = Losing(lambda request: request.url.path.endswith("/ack"), what="request", times=1_000)
    deaf = called(flavour, world.url, transport=losing.transport(flavour), retry_seconds=0)
    id = (await deaf.do("subscribe", new("deaf"), types=[PAID])).id
    await deaf.do("publish", {"type": PAID, "source": "/shop", "subject": "once more"})
    with pytest.raises(RelayError):
        await deaf.events("pull", id, limit=1, lease_seconds=1)
    well = called(flavour, world.url)
    (again,) = await well.events("pull", id, limit=1)
    assert again.subject == "once more"


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_answer_to_an_acknowledgement_that_is_lost_is_asked_for_again(
    flavour: str, world: RelayWorld, called: Make
) -> None:
    losing = Losing(lambda request: request.url.path.endswith("/ack"))
    caller = called(flavour, world.url, transport=losing.transport(flavour))
    id = (await caller.do("subscribe", new("ack"), types=[PAID])).id
    await caller.do("publish", {"type": PAID, "source": "/shop", "subject": "once"})
    assert len(await caller.events("pull", id, limit=1)) == 1
    assert len(losing.seen) == 2
    assert await caller.events("pull", id, idle_seconds=0) == []
