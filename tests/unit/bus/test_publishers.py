"""The connections of a node to brokers, with clients of the test's own."""

import asyncio
import ssl
from collections.abc import Sequence
from ipaddress import ip_network

import pytest

from relay.bus import publishers as module
from relay.bus.guard import Refused
from relay.bus.publishers import CannotConnect, Publishers
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.broker import Message, Published, read_sink

POLICY = GuardPolicy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))
BROKER = read_sink("nats://127.0.0.1:4222")
assert BROKER is not None
MESSAGES = [Message(destination="jobs", body=b"{}", id=f"evt_{n}", order="a") for n in range(3)]


class Client:
    """Answers with `results`, or fails with an error, or never answers."""

    def __init__(self, *results: Published | None, error: Exception | None = None, silent: bool = False) -> None:
        self.results, self.error, self.silent = results, error, silent
        self.broken = self.closed = False

    async def publish(self, messages: Sequence[Message], results: list[Published | None]) -> None:
        results[: len(self.results)] = self.results[: len(messages)]
        if self.silent:
            self.broken = True
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        if not self.results:
            results[:] = [Published() for _ in messages]

    async def missing(self, place: Message) -> Published | None:
        if self.silent:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return self.results[0] if self.results else None

    async def close(self) -> None:
        self.closed = True


class World:
    """Publishers, a clock, and what connecting answers: clients or errors, in turn."""

    def __init__(self, *answers: Client | Exception) -> None:
        self.now = 1000.0
        self.answers = list(answers)
        self.connected = 0
        self.publishers = Publishers(
            POLICY,
            clock=lambda: 1.0,
            resolver=None,  # type: ignore[arg-type] # nothing is dialled
            now=lambda: self.now,
            connect={"NATS": self._connect},
        )

    async def _connect(self, broker: object, tls: ssl.SSLContext | None) -> Client:
        self.connected += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def errors(self, seconds: float = 5.0) -> list[str | None]:
        assert BROKER is not None
        return [one.error for one in await self.publishers.publish(BROKER, MESSAGES, seconds)]


async def test_broken_connection_is_closed_and_replaced():
    first, second = Client(), Client()
    world = World(first, second)
    await world.errors()
    first.broken = True
    assert await world.errors() == [None] * 3
    await world.publishers.close()
    assert (world.connected, first.closed, second.closed) == (2, True, True)


@pytest.mark.parametrize(
    ("client", "errors"),
    [
        (Client(silent=True), ["timeout"] * 3),
        (Client(Published(), silent=True), [None, "timeout", "timeout"]),
        (Client(error=RuntimeError("s3cr3t")), ["protocol"] * 3),
    ],
)
async def test_connection_that_does_not_answer_is_replaced(client, errors):
    world = World(client, Client())
    assert await world.errors(0.01) == errors
    assert await world.errors() == [None] * 3
    await world.publishers.close()
    assert client.closed


async def test_broker_that_cannot_be_reached_is_left_alone_for_a_while():
    world = World(OSError("no"), OSError("no"), Client())
    assert await world.errors() == ["connect"] * 3
    assert await world.errors() == ["connect"] * 3
    assert world.connected == 1
    world.now += module.FIRST_PAUSE_SECONDS
    assert await world.errors() == ["connect"] * 3
    assert world.connected == 2
    world.now += module.FIRST_PAUSE_SECONDS
    assert await world.errors() == ["connect"] * 3, "the second pause is longer"
    world.now += module.FIRST_PAUSE_SECONDS
    assert await world.errors() == [None] * 3


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (CannotConnect("credential", "no"), "credential"),
        (Refused("no"), "refused"),
        (ssl.SSLCertVerificationError(1, "no"), "tls"),
        (ssl.SSLError(1, "no"), "tls"),
        (TimeoutError(), "timeout"),
        (OSError("s3cr3t"), "connect"),
        (ValueError("s3cr3t"), "connect"),
    ],
)
async def test_failure_to_connect_is_named_without_the_clients_text(error, word):
    world = World(error)
    assert BROKER is not None
    found = (await world.publishers.publish(BROKER, MESSAGES[:1], 5.0))[0]
    assert found.error == word
    assert "s3cr3t" not in str(found.detail)


async def test_idle_connection_is_closed():
    client = Client()
    world = World(client, Client())
    await world.errors()
    await world.publishers.close_idle()
    assert await world.errors() == [None] * 3
    assert world.connected == 1
    world.now += module.IDLE_SECONDS
    await world.publishers.close_idle()
    assert await world.errors() == [None] * 3
    await world.publishers.close()
    assert (world.connected, client.closed) == (2, True)


@pytest.mark.parametrize(
    ("answer", "place", "error"),
    [
        (Client(), MESSAGES[0], None),
        (Client(), None, None),
        (Client(Published(error="no_stream", detail="none")), MESSAGES[0], "no_stream"),
        (Client(Published(error="no_stream", detail="none")), None, None),
        (Client(silent=True), MESSAGES[0], "timeout"),
        (Client(error=RuntimeError("secret")), MESSAGES[0], "protocol"),
        (CannotConnect("extra_missing", "pip install"), MESSAGES[0], "extra_missing"),
        (Refused("no"), MESSAGES[0], "refused"),
    ],
)
async def test_look_at_a_broker_says_what_is_wrong_and_keeps_no_connection(answer, place, error):
    world = World(answer, Client())
    assert BROKER is not None
    found = await world.publishers.dial(BROKER, place, 0.01 if getattr(answer, "silent", False) else 5.0)
    assert found.error == error
    assert "secret" not in str(found.detail)
    assert await world.errors() == [None] * 3, "a look that fails holds nothing back"
    assert world.connected == 2
    await world.publishers.close()
    assert getattr(answer, "closed", True)
