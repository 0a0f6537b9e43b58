"""RabbitMQ, AMQP 0-9-1. An event is delivered once the broker has confirmed it: stored, if the queue is durable.

Messages are persistent and mandatory: an unroutable one is returned, and its delivery fails. The broker closes the
channel after a message to an exchange that is missing or not writable, and the connection after a further message on
it. So the first message to each exchange is sent alone, on its own channel.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from relay.bus.publishers import CannotConnect
from relay.bus.shared import BROKE_OFF, Answers, first_connected, needed, publish_in_order
from relay.core.deliveries.broker import CLIENT, Broker, Message, Published

MAX_BATCHES = 16
"""Maximum concurrent batches on one connection."""
MAX_PROVEN = 1000
"""Maximum exchanges remembered as writable."""
PERSISTENT = 2
HEARTBEAT_SECONDS = 20
MIN_FRAME_BYTES = 4096
FRAME_BYTES = 131_072
"""The smallest maximum that brokers may set, and RabbitMQ's default."""
PROBE = "revor-relay.probe"
"""Name of a queue that does not exist: a message to it is returned, unless the broker blocks all publishing."""
NO_HOST = "the broker refuses the virtual host: there is none of this name, or the user may not use it"
BLOCKED = Published(
    error="blocked", detail="RabbitMQ takes no messages now: it has too little memory or disk (connection.blocked)"
)
NO_EXCHANGE = Published(error="unknown_exchange", detail="there is no such exchange")
NOT_ALLOWED = Published(error="denied", detail="the credential may not write to the exchange")
BAD_PROPERTIES = Published(error="nack", detail="the broker refused the message (PRECONDITION_FAILED)")
CLOSES_CHANNEL = (NO_EXCHANGE, NOT_ALLOWED, BAD_PROPERTIES, BROKE_OFF)
"""Results after which the channel is closed or about to close."""
_RESET = struct.pack("ii", 1, 0)
"""Value of SO_LINGER that discards unsent data."""


class RabbitMq:
    """One connection and its channels."""

    def __init__(self, connection: Any, factory: "_Factory") -> None:
        self._connection, self._factory = connection, factory
        self._errors = needed("aiormq.exceptions", "rabbitmq")
        self._properties = needed("aiormq", "rabbitmq").spec.Basic.Properties
        self._free: list[Any] = []
        self._proven: set[str] = set()
        """Exchanges that have accepted a message."""
        self._batches = asyncio.Semaphore(MAX_BATCHES)
        self._cancelled = False
        """True once messages of a cancelled publish may be in flight."""

    @property
    def broken(self) -> bool:
        """True once the connection is closed, or a publish was cancelled."""
        return self._cancelled or bool(self._connection.is_closed)

    async def publish(self, messages: Sequence[Message], results: list[Published | None]) -> None:
        """See `Publisher`."""
        async with self._batches:
            self._factory.answers.expect(messages)
            why: dict[str, Published] = {}
            first = asyncio.Lock()
            try:
                channel, broke = await self._channel(), False

                async def one(message: Message) -> Published:
                    nonlocal broke
                    if message.exchange not in self._proven:
                        async with first:
                            if message.exchange in why:
                                return why[message.exchange]
                            if message.exchange not in self._proven:
                                return await self._first(message, why)
                    result = await self._one(channel, message)
                    if result in CLOSES_CHANNEL:  # the exchange accepted messages before
                        broke = True
                        self._proven.discard(message.exchange)
                    return result

                await publish_in_order(messages, results, one)
            except asyncio.CancelledError:
                self._cancelled = True
                if await self.is_blocked():
                    results[:] = [result or BLOCKED for result in results]
                raise
            if not broke:
                self._free.append(channel)

    async def _first(self, message: Message, why: dict[str, Published]) -> Published:
        """Publishes the first message to an exchange, on its own channel. `why`: collects errors by exchange."""
        channel = await self._channel()
        result = await self._one(channel, message)
        if result not in CLOSES_CHANNEL:
            self._free.append(channel)
            if len(self._proven) == MAX_PROVEN:
                self._proven.clear()
            self._proven.add(message.exchange)
        elif result is not BROKE_OFF:
            why[message.exchange] = result
        return result

    async def _channel(self) -> Any:
        while self._free:
            channel = self._free.pop()
            if not channel.is_closed:
                return channel
        return await self._connection.channel(publisher_confirms=True)

    async def _one(self, channel: Any, message: Message) -> Published:
        errors = self._errors
        properties = self._properties(
            content_type=message.content_type,
            delivery_mode=PERSISTENT,
            message_id=message.id,
            app_id=CLIENT,
            headers=dict(message.headers),
        )
        try:
            await channel.basic_publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.destination,
                properties=properties,
                mandatory=True,
                wait=False,
            )
        except errors.PublishError:
            return Published(error="unroutable", detail="no queue takes the message: bind one to the exchange")
        except errors.DeliveryError:
            return Published(
                error="nack", detail="the broker refused the message: a full queue, or no room to store it"
            )
        except errors.ChannelNotFoundEntity:
            return NO_EXCHANGE
        except errors.ChannelAccessRefused:
            return NOT_ALLOWED
        except errors.ChannelPreconditionFailed:
            return BAD_PROPERTIES
        except (errors.ChannelClosed, errors.ChannelInvalidStateError):  # closed by another message
            return BROKE_OFF
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return BROKE_OFF  # the client cancels waits when the channel ends
        return Published(detail="confirmed")

    async def missing(self, place: Message) -> Published | None:
        """See `Publisher`."""
        channel, errors = await self._connection.channel(publisher_confirms=False), self._errors
        try:
            if place.exchange:
                await channel.exchange_declare(place.exchange, passive=True)
            else:
                await channel.queue_declare(place.destination, passive=True)
        except errors.ChannelNotFoundEntity:
            if place.exchange:
                return Published(error="unknown_exchange", detail="there is no such exchange: declare it")
            return Published(error="unroutable", detail="there is no such queue: declare it")
        except errors.AMQPChannelError:  # access denied, or exclusive to another connection
            return None
        await channel.close()
        return None

    async def probe(self) -> None:
        """Publishes unroutable messages. Raises CannotConnect if the broker blocks publishing: a batch would wait in
        its socket, and be stored a second time after the block.

        A blocking broker still accepts the first message of a connection, so the probe sends two.
        """
        channel = await self._channel()
        for _ in range(2):
            asked = asyncio.ensure_future(self._one(channel, Message(destination=PROBE, body=b"", id=PROBE)))
            try:
                while not asked.done():
                    await asyncio.wait((asked,), timeout=0.2)
                    if not asked.done() and await self.is_blocked():
                        raise CannotConnect("blocked", str(BLOCKED.detail))
            finally:
                asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        if self._connection.is_closed:
            raise CannotConnect("connect", "the broker closed the connection")
        if not channel.is_closed:
            self._free.append(channel)

    async def is_blocked(self) -> bool:
        """True if the broker has sent `connection.blocked`."""
        try:
            async with asyncio.timeout(0):
                await self._connection.ready()
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        """See `Publisher`."""
        try:
            if self._cancelled:
                self._factory.reset()
            await self._connection.close()
        finally:
            self._factory.reset()


class _Factory:
    """The library's `TransportFactory`, with a limit on received bytes."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._transport: asyncio.Transport | None = None
        self.answers = Answers()

    async def create(self, url: object, **_: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connects."""
        loop = asyncio.get_running_loop()
        reader = _Reader(self.answers)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _protocol = await loop.create_connection(lambda: protocol, self._host, self._port, ssl=self._tls)
        self._transport = transport
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def reset(self) -> None:
        """Closes the connection at once and discards unsent data."""
        if self._transport is None or self._transport.is_closing():
            return
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


class _Reader(asyncio.StreamReader):
    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    async def readexactly(self, n: int) -> bytes:
        self._answers.count(n)
        return await super().readexactly(n)


async def connect(broker: Broker, tls: ssl.SSLContext | None) -> RabbitMq:
    """A connection that accepts messages. Raises CannotConnect, or the client's own errors."""
    library, errors = needed("aiormq", "rabbitmq"), needed("aiormq.exceptions", "rabbitmq")

    async def to(host: str, port: int) -> RabbitMq:
        factory = _Factory(host, port, tls)
        named = {"connection_name": broker.client}
        connection = library.Connection(_url(broker, host, port), transport_factory=factory, client_properties=named)
        connection.vhost = broker.virtual_host
        found = RabbitMq(connection, factory)
        try:
            await connection.connect()
            if connection.connection_tune.frame_max < MIN_FRAME_BYTES:  # 0: no limit
                connection.connection_tune.frame_max = FRAME_BYTES
            await found.probe()
        except (errors.AuthenticationError, errors.ProbableAuthenticationError):
            factory.reset()
            raise CannotConnect("credential", "the broker does not accept the credential") from None
        except errors.InvalidFrameError as error:
            factory.reset()
            if "Connection.Close" in str(error):  # the library's answer to a close instead of Open-Ok; the code is lost
                raise CannotConnect("denied", NO_HOST) from None
            raise
        except BaseException:
            factory.reset()
            raise
        return found

    return await first_connected(broker, to)


def _url(broker: Broker, host: str, port: int) -> str:
    login = broker.login
    name, secret = ("guest", "guest") if login is None else (login.name or "", login.secret)
    written = f"[{host}]" if ":" in host else host
    scheme = "amqps" if broker.secure else "amqp"
    user = f"{quote(name, safe='')}:{quote(secret, safe='')}"
    return f"{scheme}://{user}@{written}:{port}/?heartbeat={HEARTBEAT_SECONDS}"
