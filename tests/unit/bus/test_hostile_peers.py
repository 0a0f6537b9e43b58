"""What a server says that is no broker, or a bad one: an error of the attempt, in bounded time, memory and work."""

import asyncio
import re
import resource
import struct
import time
import tracemalloc
from contextlib import suppress
from unittest.mock import AsyncMock, patch

import aiormq  # noqa: F401 - takes longer than an attempt
import nats.aio.client  # noqa: F401
import pytest
from nats.protocol import parser

from relay.bus import shared
from relay.bus.nats import MAX_LINE_BYTES, _client_class
from relay.core.deliveries.broker import Login, Message, read_sink
from tests.support.brokers.peers import Script, leaves_after, peer, publishers, repeats, says

INFO = b'INFO {"server_id":"x","version":"2.10.0","proto":1,"max_payload":1048576,"headers":true}\r\n'
PONG = b"PONG\r\n"


def frame(kind: int, channel: int, body: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(body)) + body + b"\xce"


def table(**values: bytes) -> bytes:
    body = b"".join(bytes([len(name)]) + name.encode() + value for name, value in values.items())
    return struct.pack(">I", len(body)) + body


def text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def nested(depth: int) -> bytes:
    found = table()
    for _ in range(depth):
        found = table(a=b"F" + found)
    return found


START = frame(
    1,
    0,
    struct.pack(">HHBB", 10, 10, 0, 9)
    + table(capabilities=b"F" + table(publisher_confirms=b"t\x01"))
    + text(b"PLAIN")
    + text(b"en_US"),
)
TUNE = frame(1, 0, struct.pack(">HHHIH", 10, 30, 2047, 131072, 60))
OPEN_OK = frame(1, 0, struct.pack(">HHB", 10, 41, 0))
CHANNEL_OK = frame(1, 1, struct.pack(">HHI", 20, 11, 0))
SELECT_OK = frame(1, 1, struct.pack(">HH", 85, 11))
RETURN = frame(1, 1, struct.pack(">HHHBBB", 60, 50, 312, 0, 0, 0))
HUGE_BODY = frame(2, 1, struct.pack(">HHQH", 60, 0, 2**62, 0))
READY = (START, TUNE, OPEN_OK, CHANNEL_OK, SELECT_OK)

GARBAGE: dict[str, Script] = {
    "nothing": says(),
    "closes": leaves_after(),
    "HTTP": leaves_after(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "zeros": says(b"\x00" * 100_000),
    "not UTF-8": says(b"\xff\xfe\r\n" * 1000),
    "endless": repeats(b"x" * 65_536),
}
NATS: dict[str, Script] = {
    **GARBAGE,
    "INFO without end": repeats(b"x" * 65_536, first=b"INFO {"),
    "INFO that is no JSON": says(b"INFO nope\r\n"),
    "INFO that is no object": says(b"INFO []\r\n"),
    "INFO nested": says(b"INFO " + b"[" * 30_000 + b"\r\n"),
    "closes after INFO": leaves_after(INFO),
    "error for ever": repeats(b"-ERR 'no'\r\n" * 5000, first=INFO),
    "no PONG": says(INFO),
    "endless PING": repeats(b"PING\r\n" * 10_000, first=INFO + PONG),
    "endless INFO": repeats(INFO * 100, first=INFO + PONG),
    "endless message": repeats(b"x" * 65_536, first=INFO + PONG + b"MSG a 1 99999999999\r\n"),
    "endless line": repeats(b"x" * 65_536, first=INFO + PONG),
    "later INFO is no JSON": says(INFO + PONG, b"INFO {nope}\r\n"),
    "max_payload is a text": says(INFO.replace(b"1048576", b'"x"') + PONG),
}
AMQP: dict[str, Script] = {
    **GARBAGE,
    "AMQP 1.0": says(b"AMQP\x00\x01\x00\x00"),
    "huge frame": repeats(b"x" * 65_536, first=struct.pack(">BHI", 1, 0, 0xFFFF_FFF0)),
    "frame type 9": says(frame(9, 0, b"abc")),
    "no end of frame": says(START[:-1] + b"\x00"),
    "nested tables": says(
        frame(1, 0, struct.pack(">HHBB", 10, 10, 0, 9) + nested(5_000) + text(b"PLAIN") + text(b"e"))
    ),
    "no capabilities": says(frame(1, 0, struct.pack(">HHBB", 10, 10, 0, 9) + table() + text(b"PLAIN") + text(b"e"))),
    "other mechanism": says(START.replace(b"PLAIN", b"OTHER")),
    "closes after START": leaves_after(START),
    "closes when ready": leaves_after(*READY),
    "heartbeats only": repeats(frame(8, 0, b"") * 1000, first=START + TUNE + OPEN_OK),
    "tiny frames": says(START, TUNE.replace(struct.pack(">I", 131072), struct.pack(">I", 9)), *READY[2:]),
    "silent when ready": says(*READY),
    "huge returned message": repeats(frame(3, 1, b"x" * 60_000), first=b"".join(READY) + RETURN + HUGE_BODY),
}
SECONDS = 0.4
MAX_SECONDS = 10.0
MAX_BYTES = 48 * 1024**2


async def attempt(scheme: str, script: Script, seconds: float = SECONDS) -> str | None:
    async with peer(script) as port, publishers() as made:
        broker = read_sink(f"{scheme}://127.0.0.1:{port}", Login(name="relay", secret="s3cr3t"))
        assert broker is not None
        messages = [Message(destination="jobs", body=b"{}", id="evt_1")]
        (found,) = await made.publish(broker, messages, seconds)
        assert "s3cr3t" not in str(found.detail)
        return found.error


@pytest.mark.parametrize(
    ("scheme", "script"),
    [
        *[pytest.param("nats", script, id=f"nats: {name}") for name, script in NATS.items()],
        *[pytest.param("amqp", script, id=f"amqp: {name}") for name, script in AMQP.items()],
    ],
)
async def test_peer_costs_bounded_time_and_memory(scheme, script):
    tracemalloc.start()
    try:
        began = time.monotonic()
        error = await attempt(scheme, script)
        took = time.monotonic() - began
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error in ("timeout", "connect", "read", "protocol", "credential", "tls", "nack", "render")
    assert took < MAX_SECONDS
    assert peak < MAX_BYTES


class Scanned:
    """A pattern of nats-py that counts the bytes it is given."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.pattern, self.bytes = pattern, 0

    def match(self, text: bytearray) -> re.Match[bytes] | None:
        self.bytes += len(text)
        return self.pattern.match(text)


@pytest.mark.parametrize("part", [b"x" * 10, b" \n" * 5, b"x" * 4096])
async def test_line_of_nats_without_an_end_is_read_once_and_ends_the_connection(part, monkeypatch):
    scanned = Scanned(parser.MSG_RE)
    monkeypatch.setattr(parser, "MSG_RE", scanned)
    answers = shared.Answers()
    answers.expect([Message(destination="jobs", body=bytes(shared.MAX_BYTES), id="evt_1")])
    client = _client_class()(answers, secure=False)
    client._process_ping = AsyncMock()
    await client._ps.parse(b"PING\r\nMSG ")
    sent = 0
    with suppress(ConnectionError):
        while sent <= 2 * MAX_LINE_BYTES:
            sent += len(part)
            await client._ps.parse(part)
    assert sent <= MAX_LINE_BYTES + len(part)
    assert scanned.bytes <= 2 * MAX_LINE_BYTES


async def test_messages_of_nats_are_read_wherever_the_bytes_are_split():
    text = b"PING\r\n+OK\r\nMSG a 7 5\r\nb\nc\r\n\r\nHMSG a 7 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
    for size in range(1, len(text) + 1):
        client = _client_class()(shared.Answers(), secure=False)
        client._process_ping, client._process_msg = AsyncMock(), AsyncMock()
        for at in range(0, len(text), size):
            await client._ps.parse(text[at : at + size])
        assert client._process_ping.await_count == 1
        assert [call.args[3] for call in client._process_msg.await_args_list] == [b"b\nc\r\n", b"hi"]


@pytest.mark.parametrize("scheme", ["nats", "amqp"])
async def test_slow_bytes_end_with_the_time_out_of_an_address(scheme):
    first = {"nats": INFO, "amqp": START}[scheme]

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in first:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    with patch.object(shared, "CONNECT_SECONDS", 0.2):
        assert await attempt(scheme, drip, 5.0) == "timeout"


@pytest.mark.parametrize("scheme", ["nats", "amqp", "tls", "amqps"])
async def test_broker_that_is_down_costs_no_work(scheme):
    """A client that tries again and again by itself would use a processor."""
    async with peer(leaves_after()) as port:
        pass
    broker = read_sink(f"{scheme}://127.0.0.1:{port}")
    assert broker is not None
    async with publishers() as made:
        before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            (found,) = await made.publish(broker, [Message(destination="a", body=b"", id="1")], 5.0)
            assert found.error == "connect"
            await asyncio.sleep(0.05)
        after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


async def test_addresses_that_a_nats_server_advertises_are_not_dialled():
    dialled: list[bytes] = []

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append(b"other")

    async with peer(listens) as other:
        urls = f'"connect_urls":["127.0.0.1:{other}","169.254.169.254:80","[fd00::1]:4222"],'.encode()
        info = INFO.replace(b"{", b"{" + urls, 1)
        for script in (leaves_after(info), leaves_after(info, PONG), says(info + PONG, info, b"nonsense\r\n")):
            assert await attempt("nats", script) in ("read", "connect", "timeout")
    assert dialled == []


async def test_nothing_is_sent_to_a_nats_server_that_strips_tls():
    heard: list[bytes] = []

    async def strips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        heard.append(await reader.read(10_000))

    assert await attempt("tls", strips, 2.0) == "tls"
    assert heard in ([b""], [])


async def test_connection_on_which_nothing_comes_back_is_replaced():
    """A network that drops packets closes no connection."""
    connected: list[int] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(1)
        await says(INFO + PONG)(reader, writer)

    async with peer(silent) as port, publishers() as made:
        broker = read_sink(f"nats://127.0.0.1:{port}")
        assert broker is not None
        for _ in range(2):
            (found,) = await made.publish(broker, [Message(destination="jobs", body=b"{}", id="evt_1")], SECONDS)
            assert found.error == "timeout"
    assert len(connected) == 2
