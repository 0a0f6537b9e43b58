"""Apache Kafka. An event is delivered once all in-sync replicas have it (`acks=all`), from an idempotent producer.

Messages of one key go to one partition, and the producer keeps their order there. What was not acknowledged in time is
abandoned with its connection: a producer that went on trying could store an old event behind a newer one.
"""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from relay.bus.extras import needed
from relay.bus.publishers import CannotConnect
from relay.core.bus import Broker, Login, Message, Published

REQUEST_SECONDS = 10.0
MAX_BATCH_BYTES = 256 * 1024
MAX_REQUEST_BYTES = 1024 * 1024
"""The default of brokers (`message.max.bytes`)."""


class Kafka:
    """One producer, with its connections to the nodes of a cluster."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._errors = needed("aiokafka.errors", "kafka")
        self._closed = False

    @property
    def broken(self) -> bool:
        """True once the producer has stopped."""
        return self._closed or bool(self._producer._closed) or self._sender_ended

    @property
    def _sender_ended(self) -> bool:
        task = self._producer._sender.sender_task
        return task is None or task.done()

    async def publish(self, messages: Sequence[Message], results: list[Published | None]) -> None:
        """See `Publisher`."""
        waiting: list[Any] = [await self._begun(message) for message in messages]
        futures = [one for one in waiting if not isinstance(one, Published)]
        if futures:
            await asyncio.wait(futures)
        results[:] = [one if isinstance(one, Published) else self._result(one) for one in waiting]

    async def _begun(self, message: Message) -> Any:
        try:
            return await self._producer.send(
                message.destination,
                message.body,
                key=None if message.key is None else message.key.encode(),
                headers=[(name, value.encode()) for name, value in message.headers],
            )
        except self._errors.KafkaError as error:
            return self._failure(error)

    def _result(self, future: "asyncio.Future[Any]") -> Published:
        if future.cancelled():
            return Published(error="read", detail="the connection broke off before an acknowledgement came")
        error = future.exception()
        if error is not None:
            return self._failure(error)
        at = future.result()
        return Published(detail=f"partition {at.partition}, offset {at.offset}")

    def _failure(self, error: BaseException) -> Published:
        errors, name = self._errors, type(error).__name__
        match error:
            case errors.MessageSizeTooLargeError() | errors.RecordListTooLargeError():
                return Published(error="too_large", detail="the broker takes no message of this size")
            case errors.UnknownTopicOrPartitionError() | errors.InvalidTopicError():
                return Published(error="unknown_topic", detail="there is no such topic, and the broker makes none")
            case errors.TopicAuthorizationFailedError() | errors.ClusterAuthorizationFailedError():
                return Published(error="denied", detail="the credential may not write to the topic")
            case errors.KafkaTimeoutError() | errors.RequestTimedOutError():
                return Published(error="timeout", detail="no acknowledgement in time")
            case errors.NotEnoughReplicasError() | errors.NotEnoughReplicasAfterAppendError():
                return Published(error="nack", detail="too few replicas are in sync")
        return Published(error="nack", detail=f"the broker answered {name[:100]}")

    async def close(self) -> None:
        """See `Publisher`."""
        self._closed = True
        stopping = asyncio.ensure_future(self._producer.stop())
        try:
            await asyncio.wait_for(asyncio.shield(stopping), 0.05)  # in order, if nothing waits
        except TimeoutError:
            stopping.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await stopping
            with suppress(Exception):
                await self._producer._sender.close()
            await self._producer.client.close()


async def connect(broker: Broker, tls: ssl.SSLContext | None) -> Kafka:
    """A producer that has read the cluster's metadata. Raises CannotConnect, or what the client raises."""
    library = needed("aiokafka", "kafka")
    errors = needed("aiokafka.errors", "kafka")
    producer = library.AIOKafkaProducer(
        bootstrap_servers=[f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in broker.addresses],
        client_id="revor-relay",
        acks="all",
        enable_idempotence=True,
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=MAX_REQUEST_BYTES,
        request_timeout_ms=int(REQUEST_SECONDS * 1000),
        ssl_context=tls,
        **_security(broker.login, secure=broker.secure),
    )
    found = Kafka(producer)
    try:
        await producer.start()
    except errors.AuthenticationFailedError:
        await found.close()
        raise CannotConnect("credential", "the broker does not accept the credential") from None
    except BaseException:
        await found.close()
        raise
    return found


def _security(login: Login | None, *, secure: bool) -> dict[str, Any]:
    if login is None:
        return {"security_protocol": "SSL" if secure else "PLAINTEXT"}
    found: dict[str, Any] = {
        "security_protocol": "SASL_SSL" if secure else "SASL_PLAINTEXT",
        "sasl_mechanism": login.mechanism,
    }
    if login.mechanism == "OAUTHBEARER":
        return {**found, "sasl_oauth_token_provider": _token_provider(login.secret)}
    return {**found, "sasl_plain_username": login.name, "sasl_plain_password": login.secret}


def _token_provider(token: str) -> Any:
    base: Any = needed("aiokafka.abc", "kafka").AbstractTokenProvider

    class Fixed(base):  # type: ignore[misc]
        async def token(self) -> str:
            return token

    return Fixed()
