"""RabbitMQ, AMQP 0-9-1. An event is delivered once the broker has confirmed it: stored, if the queue is durable.

Messages are persistent and mandatory: one that no queue takes comes back, and its delivery fails. A channel publishes
one batch at a time, since a returned message is found by its id.
"""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from relay.bus.extras import needed
from relay.bus.publishers import CannotConnect
from relay.core.bus import CLIENT, Broker, Message, Published

MAX_CHANNELS = 16
PERSISTENT = 2
CONNECT_SECONDS = 8.0


class RabbitMq:
    """One connection and its channels."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._errors = needed("aiormq.exceptions", "rabbitmq")
        self._properties = needed("aiormq", "rabbitmq").spec.Basic.Properties
        self._free: list[Any] = []
        self._turns = asyncio.Semaphore(MAX_CHANNELS)
        self._late = False

    @property
    def broken(self) -> bool:
        """True once the connection is closed, or did not answer in time."""
        return self._late or bool(self._connection.is_closed)

    async def publish(self, messages: Sequence[Message], results: list[Published | None]) -> None:
        """See `Publisher`."""
        async with self._turns:
            channel = self._free.pop() if self._free else await self._connection.channel(publisher_confirms=True)
            await self._on(channel, messages, results)
            if not channel.is_closed:
                self._free.append(channel)

    async def _on(self, channel: Any, messages: Sequence[Message], results: list[Published | None]) -> None:
        tasks = [asyncio.ensure_future(self._one(channel, message)) for message in messages]
        try:
            results[:] = await asyncio.gather(*tasks)
        except BaseException:  # the caller's time-out: what is unconfirmed stays in doubt
            self._late = True
            results[:] = [task.result() if task.done() and not task.cancelled() else None for task in tasks]
            for task in tasks:
                task.cancel()
            with suppress(Exception):
                await channel.close()
            raise

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
            return Published(error="nack", detail="the broker could not store the message")
        except errors.ChannelNotFoundEntity:
            return Published(error="unknown_exchange", detail="there is no such exchange")
        except errors.ChannelAccessRefused:
            return Published(error="denied", detail="the credential may not write to the exchange")
        except Exception as error:
            return Published(error="read", detail=f"no confirmation ({type(error).__name__})")
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
        except errors.AMQPChannelError:  # it may not be looked at, or is another connection's own
            return None
        await channel.close()
        return None

    async def close(self) -> None:
        """See `Publisher`."""
        await self._connection.close()


async def connect(broker: Broker, tls: ssl.SSLContext | None) -> RabbitMq:
    """A connection to the first address that takes one. Raises CannotConnect, or what the client raises."""
    library = needed("aiormq", "rabbitmq")
    errors = needed("aiormq.exceptions", "rabbitmq")
    needed("aio_pika", "rabbitmq")
    failure: BaseException | None = None
    named = {"connection_name": broker.client}
    for host, port in broker.addresses:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return RabbitMq(await library.connect(_url(broker, host, port), context=tls, client_properties=named))
        except errors.AuthenticationError:
            raise CannotConnect("credential", "the broker does not accept the credential") from None
        except Exception as error:
            failure = error
    raise failure or CannotConnect("connect", "the sink names no address")


def _url(broker: Broker, host: str, port: int) -> str:
    login = broker.login
    name, secret = ("guest", "guest") if login is None else (login.name or "", login.secret)
    written = f"[{host}]" if ":" in host else host
    scheme = "amqps" if broker.secure else "amqp"
    user = f"{quote(name, safe='')}:{quote(secret, safe='')}"
    return f"{scheme}://{user}@{written}:{port}/{quote(broker.virtual_host, safe='')}?heartbeat=20"
