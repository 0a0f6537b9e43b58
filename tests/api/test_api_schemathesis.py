"""A seeded run of schemathesis against a real server: every generated request is answered as documented."""

import asyncio
import contextlib
import http.client
import math
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
import schemathesis
import uvicorn
from hypothesis import Phase, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from relay.api.app import create_api
from relay.core.deliveries.replay import ReplayRequest
from relay.core.jsontext import loads
from relay.core.subscriptions.filters import known_types, wanted_types
from relay.core.subscriptions.subscription import Subscription
from relay.store.store import open_store
from tests.support.api_conformity import DOCUMENT
from tests.support.api_world import HOOK, NOW, FakeNode, FakeSignals, World
from tests.support.fuzz_kit import COUNT, seeded, with_note
from tests.support.guard import DEVELOPMENT
from tests.support.job_events import origin_of
from tests.support.loop_watch import forget_earlier_objects
from tests.support.schema_check import check_event
from tests.support.store_kit import ReversingCipher, access_token, intent, registration

IDS = {"Jobs": ["a"], "Subscriptions": ["sub_01jvpq3m8n0000000000000002"], "System": ["job-status.v1"]}
IDS |= {"Tokens": ["tok_01jvpq3m8n0000000000000007"]}
IDS |= {"Intents": ["int_01jvpq3m8n0000000000000005"], "Replays": ["rpl_01jvpq3m8n0000000000000006"]}
IDS |= {"Groups": ["q4"]}
GONE = {
    "Jobs": "gone",
    "Subscriptions": "sub_01jvpq3m8n0000000000000003",
    "Intents": "int_01jvpq3m8n0000000000000006",
    "Replays": "rpl_01jvpq3m8n0000000000000007",
    "Tokens": "tok_01jvpq3m8n0000000000000008",
}
"""The resources that exist, and those that may be deleted."""
MEDIA_TYPES = st.sampled_from(
    [None, "text/event-stream", "application/json", "text/event-stream;q=0.1, application/json"]
)
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
SILENT_WAITS = 40
MAX_STALL_SECONDS = 0.25
STREAMED = re.compile(rb"id: (?P<id>[^\n]+)\nevent: (?P<type>[^\n]+)\ndata: (?P<data>[^\n]+)")

KNOWN = known_types([origin_of()])

waits_left: ContextVar[int] = ContextVar("waits_left", default=SILENT_WAITS)


class SilentSignals(FakeSignals):
    """Every wait ends at once, and the node keeps running. A stream that has waited for a while ends."""

    @property
    def steps(self):
        async def silence() -> bool:
            waits_left.set(waits_left.get() - 1)
            return False

        return [silence]

    @steps.setter
    def steps(self, _steps: object) -> None:
        return


class PatientNode(FakeNode):
    """Reports a stop only to requests that would never end."""

    @property
    def stopping(self) -> bool:
        return waits_left.get() <= 0

    @stopping.setter
    def stopping(self, _stopping: bool) -> None:
        return


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in its own thread, with a job, an event, a subscription and a delivery.

    `/livez` is watched while it serves. At the end, no request has held its loop for long.
    """
    stalls = [0.0]
    url = f"sqlite:///{tmp_path_factory.mktemp('served') / 'relay.db'}"
    listener = socket.create_server(("127.0.0.1", 0))
    ready = threading.Event()
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        store = await open_store(url, ReversingCipher(), now=NOW)
        world = World(store=store, node=PatientNode())
        world.signals = SilentSignals(world)
        for id in (*IDS["Subscriptions"], GONE["Subscriptions"]):
            await store.subscriptions.create(Subscription(id=id, sink=HOOK))
        for id in (*IDS["Intents"], GONE["Intents"]):
            await store.intents.begin(intent(id=id))
            await store.intents.unknown(id, "no_answer")
        for id in (*IDS["Tokens"], GONE["Tokens"]):
            await store.tokens.create(access_token(id), NOW)
        await world.job(GONE["Jobs"])
        await store.jobs.register(registration("grouped", group=IDS["Groups"][0]))
        await world.fail("fails")
        IDS["Incidents"] = [shown.incident.id for shown in (await store.incidents.page(limit=1)).items]
        events = await world.poll(await world.job(IDS["Jobs"][0]), "queued")
        IDS["Events"] = [events[0].id]
        IDS["Deliveries"] = [delivery.id for delivery in (await store.deliveries.page(limit=2)).items]
        for id in (*IDS["Replays"], GONE["Replays"]):
            values = {"since": 0.0, "until": NOW + 1, "now": NOW, "subscription_id": IDS["Subscriptions"][0]}
            await store.replays.create(ReplayRequest(id=id, **values))
        api = create_api(world.dependencies(guard=DEVELOPMENT), world.proxy)
        server = uvicorn.Server(uvicorn.Config(api, log_config=None, ws="none", lifespan="off"))
        servers.append(server)
        ready.set()
        pacing = asyncio.create_task(pace(stalls))
        await server.serve(sockets=[listener])
        pacing.cancel()
        await store.close()

    forget_earlier_objects()  # not in the thread: hypothesis looks at the objects that it makes meanwhile
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(20)
    port, over, answers = listener.getsockname()[1], threading.Event(), []
    watching = threading.Thread(target=watch, args=(port, over, answers), daemon=True)
    watching.start()
    yield f"http://127.0.0.1:{port}"
    over.set()
    watching.join(20)
    servers[0].should_exit = True
    thread.join(20)
    listener.close()
    assert answers
    assert set(answers) == {200}
    assert stalls[0] < MAX_STALL_SECONDS


async def pace(stalls: list[float]) -> None:
    """Keeps the longest time that the loop was held: processor time of its thread, so that a busy machine and the
    requests' generation in the same process do not count."""
    while True:
        before = time.thread_time()
        await asyncio.sleep(0.002)
        stalls[0] = max(stalls[0], time.thread_time() - before)


def watch(port: int, over: threading.Event, answers: list[int]) -> None:
    """Asks for `/livez` until it is over, each time on a new connection: a server may close an idle one."""
    while not over.wait(0.05):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/livez")
            with connection.getresponse() as answer:
                answer.read()
                answers.append(answer.status)


def cases():
    """Every operation with valid input, and with invalid input if it takes any."""
    for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations():
        operation = found.ok()
        raw = operation.definition.raw
        takes = {parameter["in"] for parameter in raw.get("parameters", ())} | {
            "body" for _ in raw.get("requestBody", ())
        }
        yield operation, GenerationMode.POSITIVE, bool(takes)
        if takes & {"body", "query"}:
            yield operation, GenerationMode.NEGATIVE, True


CASES = list(cases())
SHARE = math.ceil(COUNT / sum(varied for _, _, varied in CASES))


def check(case, answer):
    """Checks that the response is documented. Streams are documented as text, so their events are checked here."""
    if answer.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        first, *frames, last = answer.content.split(b"\n\n")
        assert (first, last) == (b": connected", b"")
        for frame in frames:
            found = STREAMED.fullmatch(frame)
            assert found or frame == b": still here"
            if found:
                type = found["type"].decode()
                free = wanted_types(type, KNOWN) != () and type not in KNOWN
                document = loads(found["data"]) if free else check_event(found["data"])
                assert type == document["type"]
                assert free or found["id"].decode() == document["id"]
        case.validate_response(answer, checks=[one for one in CHECKS if one is not checks.response_schema_conformance])
    else:
        case.validate_response(answer, checks=CHECKS)


@pytest.mark.verify
@pytest.mark.parametrize(
    ("operation", "mode", "varied"),
    CASES,
    ids=[f"{operation.definition.raw['operationId']}-{mode.value}" for operation, mode, _ in CASES],
)
def test_generated_requests_are_answered_as_documented(base_url, record_property, operation, mode, varied):
    raw = operation.definition.raw
    tag = raw["tags"][0]
    sent = 0

    @seeded(max_examples=SHARE if varied else 1, phases=[Phase.generate])
    @given(case=operation.as_strategy(generation_mode=mode), known=st.integers(0, 3), accepted=MEDIA_TYPES)
    def run(case, known, accepted):
        nonlocal sent
        if known and "id" in case.path_parameters:
            there = [GONE[tag]] if case.method == "DELETE" else IDS[tag]
            case.path_parameters["id"] = there[known % len(there)]
        headers = {"Accept": accepted} if accepted and raw["operationId"] == "listJobEvents" else {}
        with_note(lambda: check(case, case.call(base_url=base_url, headers=headers, timeout=30)))
        sent += 1

    run()
    record_property("fuzz_requests", sent)
