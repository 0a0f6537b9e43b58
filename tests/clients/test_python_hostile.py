"""What the Python client does with answers that no relay gives: a typed error, in bounded time and memory."""

import contextlib
import gzip
import json
import logging
import re
import socket
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from revor_relay_client import Relay, RelayError, UnfitAnswer, Unreachable, _core
from tests.support.client_world import FLAVOURS, Caller

pytestmark = pytest.mark.verify

TOKEN = "a-token-that-must-not-be-shown"
PROBLEM = {"type": "urn:x", "title": "No", "status": 400, "detail": "no", "code": "error", "errors": []}
MANY = 1 << 20
Say = Callable[[socket.socket], None]


class Server:
    """Answers every request alike, one after another. `requests`: the heads of those that came."""

    def __init__(self, says: list[Say]) -> None:
        self._says = says
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with near, contextlib.suppress(OSError):
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += near.recv(65_536)
                    self.requests.append(head.decode("latin-1"))
                    self._says[min(len(self.requests), len(self._says)) - 1](near)
                    near.shutdown(socket.SHUT_WR)
                    near.settimeout(0.5)  # closed with unread bytes, the answer would be lost
                    while near.recv(65_536):
                        pass

    def close(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def serving(*says: Say) -> Iterator[Server]:
    server = Server(list(says))
    try:
        yield server
    finally:
        server.close()


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Say:
    """A whole answer; `_` in the name of a header is a dash."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return lambda near: near.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)


def problem(status: int, code: str = "error", detail: str = "no", **headers: str) -> Say:
    return answer(json.dumps({**PROBLEM, "code": code, "detail": detail}).encode(), status, **headers)


def endless(near: socket.socket) -> None:
    near.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    while True:
        near.sendall(b"[" * MANY)


def endless_head(near: socket.socket) -> None:
    near.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        near.sendall(b"X: " + b"y" * 60_000 + b"\r\n")


def slow(near: socket.socket) -> None:
    near.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
    while True:
        near.sendall(b" ")
        time.sleep(0.02)


def cut_off(near: socket.socket) -> None:
    near.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"id": ')


def silent(near: socket.socket) -> None:
    near.recv(1)


BOMB = gzip.compress(b"[" * 50_000_000)
ANSWERS: dict[str, tuple[Say, type[RelayError], int | None, str]] = {
    "a page": (answer(b"<html>it works"), UnfitAnswer, None, "unfit_answer"),
    "a page with an error": (answer(b"<html>no", 403), UnfitAnswer, 403, "unfit_answer"),
    "nothing": (answer(), UnfitAnswer, None, "unfit_answer"),
    "other JSON": (answer(b'{"id": 7}'), UnfitAnswer, None, "unfit_answer"),
    "a list": (answer(b"[]"), UnfitAnswer, None, "unfit_answer"),
    "another place": (answer(b"", 307, Location="http://127.0.0.1:9/"), UnfitAnswer, 307, "unfit_answer"),
    "bytes that are no text": (answer(b'{"id": "\xff"}'), UnfitAnswer, None, "unfit_answer"),
    "a lone surrogate": (answer(b'{"id": "\\ud800"}'), UnfitAnswer, None, "unfit_answer"),
    "a lone surrogate in a problem": (
        answer(json.dumps({**PROBLEM, "detail": "\ud800"}).encode(), 400), UnfitAnswer, 400, "unfit_answer"
    ),
    "a tower": (answer(b"[" * MANY), UnfitAnswer, None, "unfit_answer"),
    "a huge number": (answer(b'{"id": ' + b"9" * MANY + b"}"), UnfitAnswer, None, "unfit_answer"),
    "an endless body": (endless, UnfitAnswer, None, "unfit_answer"),
    "an endless head": (endless_head, Unreachable, None, "unreachable"),
    "a body that does not end": (slow, UnfitAnswer, None, "unfit_answer"),
    "a bomb": (answer(BOMB, Content_Encoding="gzip"), UnfitAnswer, None, "unfit_answer"),
    "half an answer": (cut_off, Unreachable, None, "unreachable"),
    "silence": (silent, Unreachable, None, "unreachable"),
    "no HTTP": (lambda near: near.sendall(b"SSH-2.0-OpenSSH\r\n"), Unreachable, None, "unreachable"),
    "a problem": (problem(400, "not_json", X_Request_Id="req_1"), RelayError, 400, "not_json"),
    "the token in a problem": (problem(400, detail=f"Bearer {TOKEN}"), RelayError, 400, "error"),
    "a long problem": (problem(400, detail="x" * MANY), RelayError, 400, "error"),
}  # fmt: skip


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(("says", "error", "status", "code"), ANSWERS.values(), ids=ANSWERS)
async def test_unfit_answer_is_a_typed_error(
    says: Say, error: type[RelayError], status: int | None, code: str, flavour: str
) -> None:
    with serving(says) as server:
        patience = 0.3 if says in (silent, slow) else 60
        caller = Caller(flavour, server.url, TOKEN, timeout_seconds=patience, retry_seconds=0)
        with pytest.raises(RelayError) as raised:
            await caller.do("track", "a")
        await caller.close()
    assert (type(raised.value), raised.value.status, raised.value.code) == (error, status, code)
    assert TOKEN not in f"{raised.value!r} {raised.value}"
    assert len(str(raised.value)) < 3_000
    str(raised.value).encode()


def test_endless_body_is_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "MAX_ANSWER_BYTES", 2 * MANY)
    with serving(endless) as server, Relay(server.url, timeout_seconds=60, retry_seconds=0) as relay:
        tracemalloc.start()
        with pytest.raises(UnfitAnswer, match="2 MiB"):
            relay.track("a")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 12 * MANY, "the server's own megabytes are among them"


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    "says",
    [
        answer(b"data: " + b"x" * 6 * MANY, Content_Type="text/event-stream"),
        answer(b"data: x\n" * MANY, Content_Type="text/event-stream"),
        answer(b"data: {}\n\n", Content_Type="text/event-stream"),
        answer(b'data: {"id": "\\ud800"}\n\n', Content_Type="text/event-stream"),
        answer(b"<html>", Content_Type="text/html"),
        problem(404, "job_not_found"),
        silent,
    ],
    ids=["an endless line", "endless lines", "no event", "a lone surrogate", "a page", "a problem", "silence"],
)
async def test_unfit_stream_is_a_typed_error(says: Say, flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "SILENCE_SECONDS", 0.3 if says is silent else 60)
    with serving(says) as server:
        caller = Caller(flavour, server.url, TOKEN, retry_seconds=0)
        with pytest.raises(RelayError):
            await caller.events("stream", "a")
        await caller.close()


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_stream_that_ends_at_once_is_given_up(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(_core, "MAX_PAUSE_SECONDS", 0.001)
    with serving(answer(b": connected\n\n", Content_Type="text/event-stream")) as server:
        caller = Caller(flavour, server.url, TOKEN)
        with pytest.raises(Unreachable, match="keeps ending at once"):
            await caller.events("stream", "a")
        await caller.close()
    assert len(server.requests) == _core.MAX_TRIES + 1


# --- what is sent again


def test_refusals_are_repeated_only_where_that_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "FIRST_PAUSE_SECONDS", 0.001)
    gateway = answer(b"<html>", 502)
    table: list[tuple[Say, bool]] = [
        *[
            (problem(status, "x"), status in (408, 425, 429, 503, 504))
            for status in (400, 401, 404, 408, 410, 422, 425)
        ],
        *[(problem(status, "x"), status in (429, 503, 504)) for status in (429, 500, 501, 502, 503, 504, 508)],
        (problem(409, "idempotency_in_flight"), True),
        (problem(409, "group_conflict"), False),
        (gateway, True),
        (cut_off, True),
    ]
    for says, is_repeated in table:
        with serving(says, problem(400, "second")) as server, Relay(server.url, TOKEN) as relay:
            with pytest.raises(RelayError) as raised:
                relay.track("a")
            keys = [_header(head, "idempotency-key") for head in server.requests]
        assert (raised.value.code == "second") is is_repeated
        assert len(keys) == 1 + is_repeated
        assert len(set(keys)) == 1
        assert len(keys[0]) == 36


@pytest.mark.parametrize("asked", ["99999999999", "9" * 30, "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_huge_retry_after_ends_the_attempts(asked: str) -> None:
    with serving(problem(503, "busy", Retry_After=asked)) as server, Relay(server.url) as relay:
        with pytest.raises(RelayError) as raised:
            relay.track("a")
        assert len(server.requests) == 1
    assert raised.value.code == "busy"


@pytest.mark.parametrize("asked", ["-1", "soon", "1e9", "Tue, 99 Foo", "٣", ""])
def test_malformed_retry_after_is_none(asked: str) -> None:
    assert _core._retry_after({"retry-after": asked}) == 0.0


def test_retry_after_is_honoured_and_attempts_are_bounded() -> None:
    error, busy = RelayError("", code="busy"), _core.Answer(503, {"retry-after": "7"}, b"")
    patience = _core.Patience(3600)
    assert patience.pause(busy, error) == 7
    assert _core.Patience(5).pause(busy, error) is None
    failing: list[Any] = [patience.pause(_core.Failure("lost"), error) for _ in range(40)]
    assert failing[_core.MAX_TRIES :] == [None] * (40 - _core.MAX_TRIES)
    assert all(0 < pause <= _core.MAX_PAUSE_SECONDS for pause in failing if pause is not None)


@pytest.mark.parametrize("id", ["a/b", "..", "a?b#c", "\ud800", "a\nb", "ü" * 90])
def test_id_stays_one_part_of_the_path(id: str) -> None:
    with serving(problem(404, "job_not_found")) as server, Relay(server.url) as relay:
        with pytest.raises(RelayError):
            relay.wait(id)
        path = server.requests[0].split()[1]
    assert path.startswith("/v1/jobs/")
    assert path.count("/") == 3
    assert "?" not in path


@pytest.mark.parametrize(
    ("url", "token"),
    [
        *((url, None) for url in ("ftp://relay", "relay:8080", "http://", "http://me:it@relay", "http://relay?x=1")),
        *((url, None) for url in ("http://re lay", "http://relay/\n")),
        *(("http://relay", token) for token in ("two words", "line\n", "tökén")),
    ],
)
def test_malformed_settings_are_refused_and_not_quoted(url: str, token: str | None) -> None:
    with pytest.raises(ValueError, match="RELAY_") as raised:
        Relay(url, token)
    assert (token or "me:it") not in str(raised.value)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(problem(400)) as server:
        monkeypatch.setenv("RELAY_URL", server.url + "/\n")
        monkeypatch.setenv("RELAY_TOKEN", TOKEN + "\r\n")
        with Relay() as relay, pytest.raises(RelayError):
            relay.track("a")
        assert repr(relay) == f"Relay('{server.url}')"
        assert _header(server.requests[0], "authorization") == f"Bearer {TOKEN}"


# --- what an error says


def refusing(attempts: list[str], *answers: httpx.Response) -> httpx.MockTransport:
    """Gives these answers, then refuses connections."""
    left = list(answers)

    def connect(request: httpx.Request) -> httpx.Response:
        attempts.append(request.url.path)
        if left:
            return left.pop(0)
        raise httpx.ConnectError("Connection refused", request=request)

    return httpx.MockTransport(connect)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("verb", ["track", "stream"])
async def test_default_address_that_nothing_listens_at_is_asked_once(
    verb: str, flavour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RELAY_URL", raising=False)
    attempts: list[str] = []
    caller = Caller(flavour, "", TOKEN, transport=refusing(attempts))
    with pytest.raises(Unreachable, match=r"Connection refused\. Start it, or set RELAY_URL to its address"):
        await (caller.do("track", "a") if verb == "track" else caller.events("stream", "a"))
    assert len(attempts) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", ""], ids=["a given address", "it has answered before"])
def test_relay_that_is_expected_back_is_asked_again(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RELAY_URL", raising=False)
    monkeypatch.setattr(_core, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(_core, "MAX_PAUSE_SECONDS", 0.001)
    attempts: list[str] = []
    answers = [] if url else [httpx.Response(400, content=iter([json.dumps(PROBLEM).encode()]))]
    relay = Relay(url, TOKEN, transport=refusing(attempts, *answers))
    for _ in answers:
        with pytest.raises(RelayError, match="no"):
            relay.track("a")
    attempts.clear()
    with pytest.raises(Unreachable), caplog.at_level(logging.WARNING):
        relay.track("a")
    assert len(attempts) == _core.MAX_TRIES
    (line,) = caplog.messages
    assert "no relay answers at http://127.0.0.1:8080: Connection refused" in line
    assert re.search(r"\. Trying again for up to \d+ s$", re.sub(r" \([a-z]+\)", "", line))
    assert TOKEN not in line


def test_default_address_is_asked_again_after_its_stream_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELAY_URL", raising=False)
    monkeypatch.setattr(_core, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(_core, "MAX_PAUSE_SECONDS", 0.001)
    attempts: list[str] = []
    stream = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=iter([b": up\n\n"]))
    with Relay("", TOKEN, transport=refusing(attempts, stream)) as relay, pytest.raises(Unreachable):
        list(relay.stream("a"))
    assert len(attempts) == 1 + _core.MAX_TRIES


@pytest.mark.parametrize(("says", "is_logged"), [(problem(503, "busy"), True), (problem(429, "slow_down"), False)])
def test_outage_is_logged_once_and_a_rate_limit_is_not(
    says: Say, is_logged: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_core, "FIRST_PAUSE_SECONDS", 0.001)
    with serving(says, says, problem(400)) as server, Relay(server.url) as relay, pytest.raises(RelayError):
        relay.track("a")
    assert len(server.requests) == 3
    assert len(caplog.messages) == is_logged


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_error_is_one_line_that_says_what_to_do(flavour: str) -> None:
    with serving(problem(401, "unauthorized", "a token\nis needed")) as server:
        caller = Caller(flavour, server.url, TOKEN)
        with pytest.raises(RelayError) as raised:
            await caller.do("track", "a")
        await caller.close()
    assert str(raised.value) == "set RELAY_TOKEN to a token of the relay: a token is needed (401, unauthorized)"
    files = [frame.filename for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert not [name for name in files if name.endswith("_core.py")], "the steps inside the client are not shown"


def test_missing_secret_is_asked_for() -> None:
    """A relay on loopback needs no token, and then there is nothing to make the secret from."""
    mistakes = [{"pointer": "/subscriptions/0/config/secret", "code": "required", "detail": "x"}]
    body = json.dumps({**PROBLEM, "errors": mistakes}).encode()
    with serving(answer(body, 422)) as server, Relay(server.url) as relay:
        with pytest.raises(RelayError, match="set RELAY_TOKEN, or give secret=") as raised:
            relay.subscribe("crm", "http://127.0.0.1:9/hook")
        with pytest.raises(RelayError, match=r"^no "):
            relay.subscribe("crm", "http://127.0.0.1:9/hook", secret="whsec_short")
    assert (raised.value.status, len(raised.value.mistakes)) == (422, 1)


def test_list_of_events_is_refused_before_anything_is_sent() -> None:
    event = {"type": "com.acme.order.paid", "source": "/shop"}
    listed: Any = [event, event]
    with serving(problem(400)) as server, Relay(server.url) as relay, pytest.raises(TypeError, match=r"\(\*events\)"):
        relay.publish(listed)
    assert server.requests == []


def _header(head: str, name: str) -> str:
    return next(line.partition(":")[2].strip() for line in head.splitlines() if line.lower().startswith(f"{name}:"))


def test_neither_token_nor_secret_is_in_an_error_or_a_repr() -> None:
    mistakes = [{"pointer": "/a", "code": "b", "detail": f"not {TOKEN}"}]
    body = json.dumps({**PROBLEM, "detail": TOKEN, "errors": mistakes}).encode()
    with serving(answer(body, 400, X_Request_Id=TOKEN)) as server, pytest.raises(RelayError) as raised:
        Relay(server.url, TOKEN).track("a")
    assert TOKEN not in f"{raised.value} {raised.value!r} {raised.value.mistakes} {raised.value.request_id}"
    send = _core.Core("http://127.0.0.1:1", TOKEN).send("GET", "/v1/jobs")
    for shown in (send, _core.Subscribed("a", TOKEN, "add"), _core.Signed(b"", {}, TOKEN)):
        assert TOKEN not in repr(shown)


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_relay_on_this_machine_is_asked_without_a_proxy(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(problem(400, "proxy")) as proxy, serving(problem(400, "relay")) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(RelayError) as raised:
            await Caller(flavour, server.url, TOKEN).do("track", "a")
    assert raised.value.code == "relay"
    assert proxy.requests == []


def test_id_of_a_stream_that_no_header_can_carry_is_unfit() -> None:
    following = _core.Following(_core.Core("http://127.0.0.1:1", ""), "a", None, {})
    with pytest.raises(UnfitAnswer):
        following.feed("id: \xe9\n".encode())


def test_lease_counts_from_the_answer_to_a_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(_core.time, "monotonic", lambda: now[0])
    core = _core.Core("http://127.0.0.1:1", "")
    steps = _core.Pulling(core, "w", at_once=1, lease_seconds=10, limit=1, idle_seconds=None).next()
    next(steps)
    now[0] = 15.0  # it waited at the relay for longer than a lease
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
    item = {"delivery_id": "d", "event_id": "e", "attempt": 1, "event": event}
    pulled = {"items": [item], "lease_ends_at": None, "lag": {"count": 1, "oldest_seconds": 1}, "reason": None}
    with pytest.raises(StopIteration) as ended:
        steps.send(_core.Answer(200, {}, json.dumps(pulled).encode()))
    assert ended.value.value.id == "1"
