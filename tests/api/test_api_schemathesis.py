"""A short, seeded run of schemathesis over a real server: whatever it makes up is answered as it is documented."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from relay.api.app import create_api
from relay.core.netguard import GuardPolicy
from relay.core.subscription import Subscription
from relay.store.store import open_store
from tests.api_conformity import DOCUMENT
from tests.api_world import HOOK, NOW, FakeSignals, World
from tests.store_kit import ReversingCipher

IDS = {"Jobs": "a", "Subscriptions": "sub_01jvpq3m8n0000000000000002"}
ENDLESS = "streamEvents"
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
EXAMPLES = 8


class SilentSignals(FakeSignals):
    """Every wait is over at once, and the node goes on."""

    @property
    def steps(self):
        async def silence() -> bool:
            return False

        return [silence]

    @steps.setter
    def steps(self, _steps: object) -> None:
        return


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a job, an event, a subscription and a delivery, in a thread of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('served') / 'relay.db'}"
    listener = socket.create_server(("127.0.0.1", 0))
    ready = threading.Event()
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        store = await open_store(url, ReversingCipher(), now=NOW)
        world = World(store=store)
        world.signals = SilentSignals(world)
        await store.subscriptions.create(Subscription(id=IDS["Subscriptions"], sink=HOOK))
        events = await world.look(await world.job(IDS["Jobs"]), "queued")
        IDS["Events"] = events[0].id
        IDS["Deliveries"] = (await store.deliveries.page(limit=1)).items[0].id
        api = create_api(world.ports(guard=GuardPolicy.development()))
        server = uvicorn.Server(uvicorn.Config(api, log_level="critical", ws="none", lifespan="off"))
        servers.append(server)
        ready.set()
        await server.serve(sockets=[listener])
        await store.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    servers[0].should_exit = True
    thread.join(20)
    listener.close()


def cases():
    """Every operation with what it should take, and with what it should not where it takes anything at all."""
    for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations():
        operation = found.ok()
        raw = operation.definition.raw
        if raw["operationId"] == ENDLESS:
            continue
        yield pytest.param(operation, GenerationMode.POSITIVE, id=f"{raw['operationId']}-positive")
        if "requestBody" in raw or any(parameter["in"] == "query" for parameter in raw.get("parameters", ())):
            yield pytest.param(operation, GenerationMode.NEGATIVE, id=f"{raw['operationId']}-negative")


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "mode"), list(cases()))
def test_whatever_is_made_up_is_answered_as_documented(base_url, operation, mode):
    tag = operation.definition.raw["tags"][0]

    @seed(20260520)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case):
        if tag in IDS and "id" in case.path_parameters and case.method != "DELETE":
            case.path_parameters["id"] = IDS[tag]
        case.call_and_validate(base_url=base_url, checks=CHECKS, timeout=10)

    run()
