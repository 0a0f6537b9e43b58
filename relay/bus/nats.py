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
from itertools import count
from typing import Any

from relay.bus.guard import CONNECT_SECONDS
from relay.bus.publishers import CannotConnect
from relay.bus.shared import BROKE_OFF, Answers, first_connected, needed, publish_in_order
from relay.core.deliveries.broker import Broker, Login, Message, Published

LOOKUP_SECONDS = 3.0
GIVE_UP_SECONDS = 0.2
MAX_LINE_BYTES = 64 * 1024
"""Maximum line of the protocol: servers accept 4 KiB, and their INFO lists the nodes of a cluster."""
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
        self._gone = False
        self._inbox = ""
        """Subject of acknowledgements; empty: not subscribed."""
        self._numbers = count()
        self._waiting: dict[str, tuple[str, asyncio.Future[Published]]] = {}
        """Subjects and results of unacknowledged messages, by their numbers."""
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
        denials, number = self._denials, str(next(self._numbers))
        if not self._inbox:
            self._inbox = self._client.new_inbox()
            await self._client.subscribe(f"{self._inbox}.*", cb=self._replied)
        result: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (message.destination, result)
        try:
            reply = f"{self._inbox}.{number}"
            await self._client.publish(message.destination, message.body, reply=reply, headers=headers)
            if self._denials != denials:  # denied while it was written
                self._deny(self._denied)
            if self._gone and not result.done():
                return BROKE_OFF
            return await result
        finally:
            del self._waiting[number]

    async def _replied(self, reply: Any) -> None:
        """Resolves a message with its acknowledgement or JetStream's error."""
        self._replies += 1
        _, result = self._waiting.get(reply.subject.rpartition(".")[2], (None, None))
        if result is not None and not result.done():
            result.set_result(read_reply((reply.headers or {}).get("Status"), reply.data))

    async def missing(self, place: Message) -> Published | None:
        """See `Publisher`. None too if the user lacks the permission to look up streams."""
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                await self._client.jetstream().find_stream_name_by_subject(place.destination)
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
        if "violation for subscription" in text:
            detail, denied = "the credential may not subscribe to _INBOX.>, where acknowledgements come", None
            self._gone = True  # a new connection subscribes again
        else:
            detail, denied = "the credential may not publish to the subject", text
        for subject, result in self._waiting.values():
            if (denied is None or f'"{subject.lower()}"' in denied) and not result.done():
                result.set_result(Published(error="denied", detail=detail))

    async def _disconnected(self) -> None:
        self._gone = True
        for _, result in self._waiting.values():
            if not result.done():
                result.set_result(BROKE_OFF)

    async def close(self) -> None:
        """See `Publisher`."""
        await self._disconnected()
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
    """The library's client, hardened: limits received bytes, enforces TLS, ignores advertised addresses.

    Private parts of nats-py: `_ps`, `buf` and `state` of the parser, `_process_info` and, in `_abort`, `_transport`
    with its writers. tests/unit/bus/test_hostile_peers.py and tests/bus/test_nats.py break if they change, so
    pyproject.toml pins one minor version.
    """
    client: Any = needed("nats.aio.client", "nats").Client
    parser: Any = needed("nats.protocol.parser", "nats")
    awaits_line = parser.AWAITING_CONTROL_LINE

    class Parser(parser.Parser):  # type: ignore[misc]
        async def parse(self, data: bytes = b"") -> None:
            try:
                self.nc.answers.count(len(data))
                if self.state == awaits_line and b"\n" not in data:
                    self.buf.extend(data)  # the library would read the line again from its start
                else:
                    await super().parse(data)
                if self.state == awaits_line and (len(self.buf) > MAX_LINE_BYTES or b"\n" in self.buf):
                    raise ValueError("a line that never ends, or is none of the protocol's")
            except Exception as error:  # of any other kind the client would end its reading without a word
                raise ConnectionError("the server sent invalid data, or too much") from error

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
