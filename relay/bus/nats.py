"""NATS JetStream. An event is delivered once its stream has acknowledged it (PubAck).

`Nats-Msg-Id` is the id of the delivery, with its round. Within its `duplicate_window` JetStream drops duplicates of
this delivery, and never an event of another subscription or of a replay. The client neither reconnects nor takes
addresses from servers: `publishers.py` makes a new connection, to the addresses in the sink.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from relay.bus.publishers import CannotConnect
from relay.bus.shared import BROKE_OFF, CONNECT_SECONDS, Answers, first_connected, needed, publish_in_order
from relay.core.deliveries.broker import Broker, Login, Message, Published

MAX_PENDING = 4_000
"""Maximum unacknowledged messages on one connection."""
LOOKUP_SECONDS = 3.0
GIVE_UP_SECONDS = 0.2
MESSAGE_TOO_LARGE = 10_054
"""JetStream's error code for a message larger than `max_msg_size` of its stream."""
MAX_CODE = 100_000
_REFUSALS = (
    "maximum messages exceeded",
    "maximum bytes exceeded",
    "maximum messages per subject exceeded",
    "message size exceeds maximum allowed",
    "resource limits exceeded for account",
    "insufficient resources",
)
"""Descriptions that attempts may show. Others stay hidden: readers of attempts may not see a sink's answers."""
_NO_RESPONDERS = "503"
_NO_PERMISSION = "permissions violation"
_REFUSED = ("authorization", "authentication", "nkey")


class Nats:
    """One connection."""

    def __init__(self, *, secure: bool) -> None:
        self._library = needed("nats.js.errors", "nats")
        self._answers = Answers()
        self._client: Any = _client_class()(self._answers, secure=secure)
        self._jetstream: Any = None
        self._gone = False
        self._waiting: dict[asyncio.Future[Any], str] = {}
        """Unacknowledged messages: their futures and subjects."""
        self._replies = 0
        self._denials = 0
        self._denied = ""

    async def connect(self, server: str, login: Login | None, name: str, tls: ssl.SSLContext | None) -> None:
        """Connects. Raises CannotConnect, or the client's own errors."""
        try:
            await self._client.connect(
                servers=[server],
                name=name,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # 0 would mean no limit
                reconnect_time_wait=0.1,
                connect_timeout=CONNECT_SECONDS,
                error_cb=self._server_error,
                disconnected_cb=self._disconnected,
                closed_cb=self._disconnected,
                tls=tls,
                **_options(login),
            )
        except BaseException as error:
            self._abort()
            with suppress(Exception):  # after a failed TLS handshake the library never returns
                async with asyncio.timeout(GIVE_UP_SECONDS):
                    await self._client.close()
            if any(word in str(error).lower() for word in _REFUSED):
                raise CannotConnect("credential", "the broker does not accept the credential") from None
            raise
        self._client._reading_task.add_done_callback(self._ended)  # invalid data from the server ends it too
        self._jetstream = self._client.jetstream(publish_async_max_pending=MAX_PENDING)
        self._jetstream._handle_async_reply = self._replied

    @property
    def broken(self) -> bool:
        """True once the connection is lost."""
        return self._gone or not self._client.is_connected

    async def publish(self, messages: Sequence[Message], results: list[Published | None]) -> None:
        """See `Publisher`."""
        self._answers.expect(messages)
        replies = self._replies
        try:
            await publish_in_order(messages, results, self._one)
        except asyncio.CancelledError:
            if self._replies == replies:  # no reply on any subject: the connection may be half open
                self._gone = True
            raise

    async def _one(self, message: Message) -> Published:
        headers = {**dict(message.headers), "Nats-Msg-Id": message.delivery or message.id}
        if _size_of(headers) + len(message.body) > self._client.max_payload:
            limit = self._client.max_payload
            return Published(error="too_large", detail=f"the server takes {limit:,} bytes with headers (max_payload)")
        denials = self._denials
        future = await self._jetstream.publish_async(message.destination, message.body, headers=headers)
        self._waiting[future] = message.destination
        try:
            if self._denials != denials:  # denied while it was written
                self._deny(self._denied)
            if self._gone and not future.done():
                return BROKE_OFF
            found: Published = await future
            return found
        finally:
            del self._waiting[future]

    async def _replied(self, reply: Any) -> None:
        """Resolves a message with its acknowledgement or JetStream's error. The library's own handler raises that error
        where no caller sees it, and the message would wait without end."""
        self._replies += 1
        future = self._jetstream._publish_async_futures.get(reply.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(read_reply((reply.headers or {}).get("Status"), reply.data))

    async def missing(self, place: Message) -> Published | None:
        """See `Publisher`. None too if the user lacks the permission to look up streams."""
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                await self._jetstream.find_stream_name_by_subject(place.destination)
        except self._library.NotFoundError:
            return Published(error="no_stream", detail="no stream has this subject: add one")
        except self._library.ServiceUnavailableError:
            return Published(error="no_stream", detail="JetStream is off: start the server with it")
        except (TimeoutError, self._library.APIError):
            return None
        return None

    async def _server_error(self, error: Exception) -> None:
        """Handles an error from the server. Only a permission error leaves the connection open."""
        text = str(error).lower()
        if _NO_PERMISSION in text:
            self._denials += 1
            self._denied = text
            self._deny(text)

    def _deny(self, text: str) -> None:
        """Fails the messages that will get no acknowledgement."""
        if "subscription" in text:
            detail, denied = "the credential may not subscribe to _INBOX.>, where acknowledgements come", None
        else:
            detail, denied = "the credential may not publish to the subject", text
        for future, subject in list(self._waiting.items()):
            if (denied is None or f'"{subject.lower()}"' in denied) and not future.done():
                future.set_result(Published(error="denied", detail=detail))

    async def _disconnected(self) -> None:
        self._ended()

    def _ended(self, *_: object) -> None:
        self._gone = True
        for future in list(self._waiting):
            if not future.done():
                future.set_result(BROKE_OFF)

    async def close(self) -> None:
        """See `Publisher`."""
        self._ended()
        self._abort()  # a server that stops reading would keep it open
        await self._client.close()

    def _abort(self) -> None:
        transport = self._client._transport
        for writer in () if transport is None else (transport._io_writer, transport._bare_io_writer):
            if writer is not None:
                writer.transport.abort()


async def connect(broker: Broker, tls: ssl.SSLContext | None) -> Nats:
    """A connection. Raises CannotConnect, or the client's own errors."""
    scheme = "tls" if broker.secure else "nats"

    async def to(host: str, port: int) -> Nats:
        found = Nats(secure=broker.secure)
        written = f"[{host}]" if ":" in host else host
        await found.connect(f"{scheme}://{written}:{port}", broker.login, broker.client, tls)
        return found

    return await first_connected(broker, to)


def read_reply(status: str | None, data: bytes) -> Published:
    """The result in JetStream's answer to a message. `status`: the `Status` header; 503 means no responders."""
    if status == _NO_RESPONDERS:
        return Published(error="no_stream", detail="no stream has this subject, or JetStream is off: add one")
    try:
        answer = json.loads(data)
        if "error" in answer:
            code, description = answer["error"].get("err_code"), answer["error"].get("description")
            error = "too_large" if code == MESSAGE_TOO_LARGE else "nack"
            shown = description if description in _REFUSALS else "an error"
            number = f" ({code})" if isinstance(code, int) and 0 < code < MAX_CODE else ""
            return Published(error=error, detail=f"JetStream answered: {shown}{number}")
        again = ", which had it already" if answer.get("duplicate") else ""
        return Published(detail=f"stream {str(answer['stream'])[:100]}, sequence {int(answer['seq'])}{again}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Published(error="protocol", detail="the answer is no acknowledgement of JetStream")


def _options(login: Login | None) -> dict[str, Any]:
    if login is None:
        return {}
    if login.mechanism == "NKEY":
        try:
            needed("nkeys", "nats").from_seed(login.secret.encode())
        except Exception:  # assertions too
            raise CannotConnect("credential", "this is not the seed of an NKey") from None
        return {"nkeys_seed_str": login.secret}
    return {"token": login.secret} if login.name is None else {"user": login.name, "password": login.secret}


def _size_of(headers: Mapping[str, str]) -> int:
    """Size of the encoded headers in bytes: `NATS/1.0`, a line per header, an empty line."""
    return 12 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


@cache
def _client_class() -> Any:
    """The library's client, hardened: limits received bytes, enforces TLS, ignores advertised addresses."""
    client: Any = needed("nats.aio.client", "nats").Client
    parser: Any = needed("nats.protocol.parser", "nats").Parser

    class Parser(parser):  # type: ignore[misc]
        async def parse(self, data: bytes = b"") -> None:
            self.nc.answers.count(len(data))
            await super().parse(data)

    class Client(client):  # type: ignore[misc]
        def __init__(self, answers: Answers, *, secure: bool) -> None:
            super().__init__()
            self.answers, self._secure = answers, secure
            self._ps = Parser(self)

        async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
            if initial_connection and self._secure and not info.get("tls_required"):
                raise CannotConnect("tls", "the server offers no TLS: nothing was sent")
            info.pop("connect_urls", None)  # further addresses, in any number
            await super()._process_info(info, initial_connection=initial_connection)

    return Client
