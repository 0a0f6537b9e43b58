"""A sink in its own process that answers request N with hostile case N: `python -m tests.support.hostile_sink SEED`.

Prints its port. It is a process of its own so that a test measures its own event loop alone. The case is made from the
seed and the number in the path, so a failure can be repeated.
"""

import asyncio
import gzip
import random
import re
import sys
from collections.abc import Callable, Iterator

from tests.support.peer import open_peer

END = b"\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
DRIP_SECONDS = 0.005
SLOW_PATTERNS = (
    *(b"a@", b"token=", b"://", b"+1", b'"address":"', b"bearer ", b"secret:\\", b"hook.a", b"cookie", b"v1,", b"sk-"),
    *(
        b"https://hooks.slack.com/",
        b"Authorization: Basic ",
        b"\x1b[2J\x9b",
        "\u202e".encode(),
        b"\xff\xfe",
        b"[",
        b"{",
    ),
)
"""Text that a careless pattern of redaction would take minutes over, and text that controls a terminal."""

Answer = Iterator[bytes | float]
"""Pieces to write, and pauses in seconds."""


def _body(draw: random.Random) -> bytes:
    return draw.choice(SLOW_PATTERNS) * draw.choice((1, 40, 700, 9000))


def plain(draw: random.Random, head: bytes) -> Answer:
    body = _body(draw)
    yield OK + b"Content-Length: %d" % len(body) + END + body


def echo(draw: random.Random, head: bytes) -> Answer:
    """Everything that was sent, credentials too, in a header and the body."""
    lines = head.replace(b"\r\n", b" ; ")
    yield (
        b"HTTP/1.1 %d %b\r\nX-Echo: %b\r\nContent-Length: %d"
        % (
            draw.choice((200, 404, 500)),
            lines[:60],
            lines[: draw.choice((100, 2000, 8000))],
            len(head),
        )
        + END
        + head
    )


def many_headers(draw: random.Random, head: bytes) -> Answer:
    count, size = draw.choice(((100, 8000), (128, 8100), (5000, 20), (1000, 1), (200, 9000)))
    name = draw.choice((b"X", b"Set-Cookie", b"Retry-After", b"X-Token"))
    yield OK + b"".join(b"%b-%d: %b\r\n" % (name, one, _body(draw)[:size]) for one in range(count)) + b"\r\nok"


def endless_headers(draw: random.Random, head: bytes) -> Answer:
    yield OK
    while True:
        yield b"X: " + b"y" * draw.choice((10, 4000)) + b"\r\n"


def endless_line(draw: random.Random, head: bytes) -> Answer:
    yield draw.choice((b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\nX: ", b""))
    while True:
        yield b"x" * 10_000


def endless_interim(draw: random.Random, head: bytes) -> Answer:
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\nLink: </%b>\r\n\r\n" % (b"x" * draw.choice((1, 5000)))


def endless_body(draw: random.Random, head: bytes) -> Answer:
    yield OK + draw.choice((b"", b"Content-Length: 99999999999\r\n")) + b"\r\n"
    while True:
        yield _body(draw)


def tiny_chunks(draw: random.Random, head: bytes) -> Answer:
    yield OK + b"Transfer-Encoding: chunked" + END
    extension = draw.choice((b"", b";a=b", b";" + b"x" * 200))
    while True:
        yield (b"1%b\r\nx\r\n" % extension) * 500


def trailers(draw: random.Random, head: bytes) -> Answer:
    yield OK + b"Transfer-Encoding: chunked" + END + b"2\r\nok\r\n0\r\n"
    while True:
        yield b"X-Trailer: %b\r\n" % _body(draw)[:1000]


def bomb(draw: random.Random, head: bytes) -> Answer:
    coded = gzip.compress(bytes(20_000_000))
    yield OK + b"Content-Encoding: %b\r\n" % draw.choice((b"gzip", b"gzip, gzip", b"deflate", b"br", b"zstd"))
    yield b"Content-Length: %d" % len(coded) + END + coded


def drip(draw: random.Random, head: bytes) -> Answer:
    for byte in draw.choice((OK + b"X: y\r\n" * 1000, b"HTTP/1.1 100 Continue\r\n\r\n" * 100, OK + END + b"x" * 1000)):
        yield bytes((byte,))
        yield DRIP_SECONDS


def noise(draw: random.Random, head: bytes) -> Answer:
    yield draw.randbytes(draw.choice((1, 100, 5000, 70_000)))


def odd_status(draw: random.Random, head: bytes) -> Answer:
    status = draw.choice((b"0", b"99", b"000", b"1000", b"-1", b"2e2", b"\xb2\xb0\xb0", b"101", b"199", b"410", b"600"))
    yield b"HTTP/%b %b %b\r\n" % (draw.choice((b"1.1", b"9.9", b"0.9", b"1.")), status, _body(draw)[:500]) + END


def pauses(draw: random.Random, head: bytes) -> Answer:
    """Asks for a pause that no one should obey for longer than a day."""
    until = draw.choice((b"9" * 4000, b"1e400", b"-1", b"NaN", b"Fri, 31 Dec 9999 23:59:59 GMT", b"\x1b", b"1_000"))
    status = draw.choice((429, 503))
    yield b"HTTP/1.1 %d X\r\nRetry-After: %b\r\nDate: %b\r\nContent-Length: 0" % (status, until, until[:200]) + END


def redirect(draw: random.Random, head: bytes) -> Answer:
    target = draw.choice((b"http://169.254.169.254/", b"file:///etc/passwd", b"//127.0.0.1", b"\x00", b"x" * 8000))
    yield b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 0" % (draw.choice((301, 302, 307, 308)), target) + END


def pipelined(draw: random.Random, head: bytes) -> Answer:
    """Answers that were not asked for: they must not become those of later requests."""
    yield (OK + b"Content-Length: 2" + END + b"ok") * draw.choice((2, 500))


def deep(draw: random.Random, head: bytes) -> Answer:
    body = draw.choice((b"[", b'{"error":')) * 10_000
    yield OK + b"Content-Type: application/json\r\nContent-Length: %d" % len(body) + END + body


def silence(draw: random.Random, head: bytes) -> Answer:
    yield draw.choice((b"", b"H", b"HTTP/1.1 200", OK, OK + b"Content-Length: 5" + END + b"ok"))
    yield 60.0


KINDS: tuple[Callable[[random.Random, bytes], Answer], ...] = (
    *(plain, echo, many_headers, endless_headers, endless_line, endless_interim, endless_body, tiny_chunks, trailers),
    *(bomb, drip, noise, odd_status, pauses, redirect, pipelined, deep, silence),
)


def kind_of(number: int) -> str:
    """The name of case N."""
    return KINDS[number % len(KINDS)].__name__


def answer(seed: str, number: int, head: bytes) -> Answer:
    """The pieces of case N, made from the seed."""
    return KINDS[number % len(KINDS)](random.Random(f"{seed}/{number}"), head)


async def serve(seed: str) -> None:
    """Serves until stdin ends."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(END)
            size = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(size[1]) if size else 0)
            number = int(head.split(b" ")[1].rpartition(b"/")[2].partition(b"?")[0])
            draw = random.Random(f"{seed}/{number}/end")
            for piece in answer(seed, number, head + body[:2000]):
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                else:
                    writer.write(piece)
                    await writer.drain()
            if draw.random() < 0.7:
                return
            if draw.random() < 0.3:
                writer.transport.abort()
                return

    async with open_peer(talk) as port:
        print(port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
