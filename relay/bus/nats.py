"""NATS JetStream. An event is delivered once its stream has acknowledged it (PubAck).

`Nats-Msg-Id` is the event's id, so JetStream drops a repetition within its `duplicate_window`. The client does not
reconnect by itself: `publishers.py` makes a new connection, to the addresses that the sink names.
"""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

from relay.bus.extras import needed
from relay.bus.publishers import CannotConnect
from relay.core.bus import Broker, Message, Published

MAX_PENDING = 4_000
"""Maximum messages that wait for their acknowledgement on one connection."""
CONNECT_SECONDS = 5
LOOK_SECONDS = 3.0


class Nats:
    """One connection."""

    def __init__(self) -> None:
        self._library = needed("nats.js.errors", "nats")
        self._client: Any = needed("nats.aio.client", "nats").Client()
        self._jetstream: Any = None
        self._denied = False
        self._gone = asyncio.Event()

    async def connect(self, broker: Broker, tls: ssl.SSLContext | None) -> None:
        """Connects to one of the addresses. Raises what the client raises, or CannotConnect."""
        scheme = "tls" if broker.secure else "nats"
        options: dict[str, Any] = {}
        login = broker.login
        if login is not None and login.mechanism == "NKEY":
            options["nkeys_seed_str"] = login.secret
        elif login is not None:
            options |= {"token": login.secret} if login.name is None else {"user": login.name, "password": login.secret}
        try:
            await self._client.connect(
                servers=[f"{scheme}://{_written(host)}:{port}" for host, port in broker.addresses],
                name=broker.client,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # 0 would mean for ever
                reconnect_time_wait=0.1,
                connect_timeout=CONNECT_SECONDS,
                error_cb=self._heard,
                disconnected_cb=self._left,
                closed_cb=self._left,
                tls=tls,
                **options,
            )
        except BaseException:
            await self.close()
            if self._denied:
                raise CannotConnect("credential", "the broker does not accept the credential") from None
            raise
        self._jetstream = self._client.jetstream(publish_async_max_pending=MAX_PENDING)

    @property
    def broken(self) -> bool:
        """True once the connection is gone."""
        return self._gone.is_set() or not self._client.is_connected

    async def publish(self, messages: Sequence[Message], results: list[Published | None]) -> None:
        """See `Publisher`."""
        waiting: list[Any] = []
        try:
            await self._publish(messages, waiting)
        except asyncio.CancelledError:
            self._gone.set()  # what it has sent may still arrive late
            results[: len(waiting)] = [
                one if isinstance(one, Published) else self._result(one) if one.done() else None for one in waiting
            ]
            raise
        results[:] = [one if isinstance(one, Published) else self._result(one) for one in waiting]

    async def _publish(self, messages: Sequence[Message], waiting: list[Any]) -> None:
        for message in messages:
            waiting.append(await self._begun(message))  # noqa: PERF401 - those so far count when it is cancelled
        futures = [one for one in waiting if not isinstance(one, Published)]
        acknowledged = asyncio.ensure_future(_all(futures))
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait((acknowledged, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            acknowledged.cancel()

    async def _begun(self, message: Message) -> Any:
        if len(message.body) > self._client.max_payload:
            return Published(error="too_large", detail=f"the server takes {self._client.max_payload:,} bytes")
        headers = {**dict(message.headers), "Nats-Msg-Id": message.id}
        try:
            return await self._jetstream.publish_async(message.destination, message.body, headers=headers)
        except Exception as error:
            return Published(error="read", detail=f"the message could not be sent ({type(error).__name__})")

    def _result(self, future: "asyncio.Future[Any]") -> Published:
        if not future.done() or future.cancelled():
            return Published(error="read", detail="the connection broke off before an acknowledgement came")
        error = future.exception()
        match error:
            case None:
                ack = future.result()
                again = ", which had it already" if ack.duplicate else ""
                return Published(detail=f"stream {str(ack.stream)[:100]}, sequence {ack.seq}{again}")
            case self._library.NoStreamResponseError():
                return Published(error="no_stream", detail="no stream has this subject, or JetStream is off: add one")
            case self._library.APIError():
                return Published(error="nack", detail=f"JetStream answered error {error.err_code} ({error.code})")
        return Published(error="read", detail=f"no acknowledgement ({type(error).__name__})")

    async def missing(self, place: Message) -> Published | None:
        """See `Publisher`. A user may lack the permission to ask."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._jetstream.find_stream_name_by_subject(place.destination)
        except self._library.NotFoundError:
            return Published(error="no_stream", detail="no stream has this subject: add one")
        except self._library.ServiceUnavailableError:
            return Published(error="no_stream", detail="JetStream is off: start the server with it")
        except (TimeoutError, self._library.APIError):
            return None
        return None

    async def _heard(self, error: Exception) -> None:
        self._denied = self._denied or "authorization" in str(error)[:200].lower()

    async def _left(self) -> None:
        self._gone.set()

    async def close(self) -> None:
        """See `Publisher`."""
        await self._client.close()


async def connect(broker: Broker, tls: ssl.SSLContext | None) -> Nats:
    """A connection. Raises CannotConnect, or what the client raises."""
    found = Nats()
    await found.connect(broker, tls)
    return found


async def _all(futures: Sequence["asyncio.Future[Any]"]) -> None:
    if futures:
        await asyncio.wait(futures)


def _written(host: str) -> str:
    return f"[{host}]" if ":" in host else host
