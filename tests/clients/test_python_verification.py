"""What the Python client takes for a signed request, and what its receiver answers. The relay's own signer signs."""

import asyncio
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from standardwebhooks import Webhook

from relay.core.subscriptions.signing import SigningSecret, new_secret, new_signing_key, signature_headers
from revor_relay_client import (
    ChangedBody,
    Event,
    Receiver,
    TimestampError,
    VerificationError,
    WrongSecret,
    verify,
    verify_all,
)

SECRET, OTHER = new_secret(b"a" * 32), new_secret(b"b" * 32)
EVENT = {
    "specversion": "1.0",
    "id": "evt_01jvpz3n7wqx4t5b6c7d8e9f0g",
    "source": "https://revor.ai/api/v1/outreach/jobs",
    "type": "ai.revor.job.failed",
    "subject": "job",
    "attempt": "an extension of its program",
    "data": {"metadata": {"name": "Zoë"}},
}
BODY = json.dumps(EVENT).encode()


@dataclass(frozen=True)
class Request:
    """A signed request, and what is done to it on its way."""

    body: bytes = BODY
    secrets: tuple[str, ...] = (SECRET,)
    seconds_ago: float = 0
    id: str = str(EVENT["id"])
    media: str = "application/cloudevents+json"
    became: bytes | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)

    def sent(self) -> tuple[bytes, dict[str, str]]:
        secrets = [SigningSecret(value=one, expires_at=None) for one in self.secrets]
        signed = signature_headers(secrets, message_id=self.id, now=time.time() - self.seconds_ago, body=self.body)
        headers = {"Content-Type": self.media, "Content-Length": str(len(self.body)), **dict(signed), **self.headers}
        kept = {name: value for name, value in headers.items() if value is not None}
        return (self.body if self.became is None else self.became), kept


def test_signed_request_is_read() -> None:
    body, headers = Request().sent()
    event = verify(body, {name.upper(): value for name, value in headers.items()}, SECRET)
    assert event.model_dump(exclude_unset=True) == EVENT
    assert (event.relay_id, event.key) == (EVENT["id"], (EVENT["source"], EVENT["id"]))
    assert Webhook(SECRET).verify(body, headers)["id"] == EVENT["id"]


@pytest.mark.parametrize("secrets", [(OTHER, SECRET), (new_signing_key(b"k" * 32), SECRET)], ids=["rotation", "both"])
def test_one_signature_that_verifies_is_enough(secrets: tuple[str, ...]) -> None:
    assert verify(*Request(secrets=secrets).sent(), SECRET).id == EVENT["id"]


def test_wrong_kind_of_body_or_secret_says_what_is_needed() -> None:
    body, headers = Request().sent()
    parsed: Any
    for parsed in (body.decode(), EVENT, None):
        with pytest.raises(TypeError, match="raw bytes of the body, before any JSON parser"):
            verify(parsed, headers, SECRET)
    absent: Any = None
    with pytest.raises(ValueError, match="a signing secret is whsec_"):
        verify(body, headers, absent)


def test_batch_is_read() -> None:
    batch = Request(
        body=json.dumps([EVENT, {**EVENT, "id": "A-17"}]).encode(),
        id="bundle_1",
        media="application/cloudevents-batch+json",
    )
    body, headers = batch.sent()
    assert [(event.id, event.relay_id) for event in verify_all(body, headers, SECRET)] == [
        (EVENT["id"], ""),
        ("A-17", ""),
    ]
    with pytest.raises(VerificationError, match="verify_all"):
        verify(body, headers, SECRET)


LONGER, SAME_LENGTH = BODY.replace(b'"job"', b'"another"'), BODY.replace(b"failed", b"passed")
REFUSED: dict[str, tuple[Request, type[VerificationError], str]] = {
    "another length": (Request(became=LONGER), ChangedBody, "changed_body"),
    "another event": (
        Request(became=BODY.replace(b"9f0g", b"9f0h")),
        ChangedBody,
        "changed_body",
    ),
    "no JSON any more": (Request(became=b"x" * len(BODY)), ChangedBody, "changed_body"),
    "same length, no trace": (Request(became=SAME_LENGTH), WrongSecret, "wrong_secret"),
    "another secret": (Request(secrets=(OTHER,)), WrongSecret, "wrong_secret"),
    "another id": (Request(headers={"webhook-id": "evt_2"}), ChangedBody, "changed_body"),
    "sent again": (Request(seconds_ago=600), TimestampError, "old_timestamp"),
    "a wrong clock": (Request(seconds_ago=-600), TimestampError, "future_timestamp"),
    "no signature": (Request(headers={"webhook-signature": None}), VerificationError, "missing_header"),
    "no id": (Request(headers={"webhook-id": None}), VerificationError, "missing_header"),
    "no number": (Request(headers={"webhook-timestamp": "soon"}), VerificationError, "malformed_timestamp"),
    "a huge number": (Request(headers={"webhook-timestamp": "9" * 400}), VerificationError, "malformed_timestamp"),
    "an ed25519 signature": (Request(secrets=(new_signing_key(b"k" * 32),)), VerificationError, "no_v1_signature"),
    "another secret of a template": (
        Request(body=b'{"text": "x"}', media="application/json", secrets=(OTHER,)),
        WrongSecret,
        "wrong_secret",
    ),
    "a hostile id": (Request(headers={"webhook-id": "\ud800"}), WrongSecret, "wrong_secret"),
    "a hostile signature": (Request(headers={"webhook-signature": "v1,\ud800"}), WrongSecret, "wrong_secret"),
    "a flat object": (Request(body=b'{"a": 1}'), VerificationError, "unfit_body"),
    "a lone surrogate": (Request(body=BODY.replace(b"Zo", rb"\ud800")), VerificationError, "unfit_body"),
    "bytes that are no text": (Request(body=b"\xff\xfe"), VerificationError, "unfit_body"),
    "a tower": (Request(body=b"[" * 100_000), VerificationError, "unfit_body"),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "error", "reason"), REFUSED.values(), ids=REFUSED)
def test_request_is_refused_with_its_reason(request_: Request, error: type[VerificationError], reason: str) -> None:
    with pytest.raises(VerificationError) as raised:
        verify(*request_.sent(), SECRET)
    assert (type(raised.value), raised.value.reason) == (error, reason)
    assert SECRET not in str(raised.value)


def test_tolerance_is_given() -> None:
    old = Request(seconds_ago=600).sent()
    assert verify(*old, SECRET, tolerance_seconds=900).id == EVENT["id"]
    with pytest.raises(TimestampError):
        verify(*Request(seconds_ago=60).sent(), SECRET, tolerance_seconds=30)


LONG = "whsec_" + "A" * 88
"""Of 66 bytes."""


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_short", "whsec_%%%", LONG, SECRET.removeprefix("whsec_")])
def test_malformed_secret_is_named_and_not_quoted(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and base64"):
        verify(*Request().sent(), secret)


# --- the receiver


def receiver(took: list[Event], **options: Any) -> Receiver:
    made = Receiver(SECRET, **options)

    @made.on("job.failed")
    def keep(event: Event) -> None:
        took.append(event)

    return made


@pytest.mark.parametrize(
    ("types", "is_called"),
    [((), True), (("*",), True), (("ai.revor.job.failed",), True), (("job.failed", "x.y"), True), (("failed",), True)]
    + [((wrong,), False) for wrong in ("ailed", "b.failed", "ai.revor.job", "job.succeeded", "")],
)
def test_types_are_whole_or_last_words(types: tuple[str, ...], is_called: bool) -> None:
    made, took = Receiver(SECRET), list[Event]()
    made.on(*types)(took.append)
    body, headers = Request().sent()
    assert made.handle("POST", headers, body).status == 204
    assert bool(took) is is_called


ANSWERS: dict[str, tuple[Callable[[], tuple[str, dict[str, str], bytes]], int]] = {
    "an event": (lambda: ("POST", *reversed(Request().sent())), 204),
    "an old one": (lambda: ("POST", *reversed(Request(seconds_ago=999).sent())), 401),
    "a forged one": (lambda: ("POST", *reversed(Request(secrets=(OTHER,)).sent())), 401),
    "no signature": (lambda: ("POST", {}, BODY), 401),
    "no event": (lambda: ("POST", *reversed(Request(body=b"{}").sent())), 422),
    "a large body": (lambda: ("POST", {}, b" " * (3 << 20)), 413),
    "a page": (lambda: ("GET", {}, b""), 405),
    "a handshake": (lambda: ("OPTIONS", {"WebHook-Request-Origin": "relay.example.com"}, b""), 200),
    "another OPTIONS": (lambda: ("OPTIONS", {}, b""), 403),
}  # fmt: skip


@pytest.mark.parametrize(("made", "status"), ANSWERS.values(), ids=ANSWERS)
async def test_receiver_answers(made: Callable[[], tuple[str, dict[str, str], bytes]], status: int) -> None:
    """As a function, as a coroutine, over ASGI and over WSGI."""
    took: list[Event] = []
    receives = receiver(took)
    method, headers, body = made()
    assert receives.handle(method, headers, body).status == status
    assert (await receives.ahandle(method, headers, body)).status == status
    assert await over_asgi(receives, method, headers, body) == status
    assert over_wsgi(receives, method, headers, body) == status
    assert len(took) == (4 if status == 204 else 0), "nothing is dropped, not even what comes again"


def test_handshake_is_agreed_to_for_one_relay_only() -> None:
    receives = receiver([], allowed_origin="relay.example.com")
    asked = {"webhook-request-origin": "relay.example.com", "webhook-request-rate": "60"}
    agreed = receives.handle("OPTIONS", asked, b"")
    assert agreed.headers["WebHook-Allowed-Origin"] == "relay.example.com"
    assert agreed.headers["WebHook-Allowed-Rate"] == "*"
    assert receives.handle("OPTIONS", {"webhook-request-origin": "relay.example.org"}, b"").status == 403


@pytest.mark.parametrize("is_coroutine", [False, True])
async def test_failed_function_is_answered_with_500_and_no_reason(is_coroutine: bool) -> None:
    receives = Receiver(SECRET)

    def fail(event: Event) -> None:
        raise RuntimeError("the password is hunter2")

    async def fail_later(event: Event) -> None:
        fail(event)

    receives.on()(fail_later if is_coroutine else fail)
    body, headers = Request().sent()
    reply = await receives.ahandle("POST", headers, body)
    assert reply.status == 500
    assert "hunter2" not in reply.body


class Called:
    async def __call__(self, event: Event) -> None:
        await fail_later(event)


async def fail_later(event: Event) -> None:
    raise RuntimeError("no room")


@pytest.mark.parametrize(
    "handler", [fail_later, Called(), lambda event: fail_later(event), partial(fail_later)],
    ids=["a coroutine", "an object", "a lambda", "a partial"],
)  # fmt: skip
async def test_receiver_waits_for_each_kind_of_coroutine(handler: Callable[[Event], Any]) -> None:
    receives = Receiver(SECRET)
    receives.on()(handler)
    body, headers = Request().sent()
    assert (await receives.ahandle("POST", headers, body)).status == 500
    assert await over_asgi(receives, "POST", headers, body) == 500
    assert (await asyncio.to_thread(receives.handle, "POST", headers, body)).status == 500


def test_function_that_would_never_run_is_refused() -> None:
    def yields(event: Event) -> Any:
        yield event

    async def yields_later(event: Event) -> Any:
        yield event

    with pytest.raises(TypeError, match="parentheses"):
        Receiver(SECRET).on(print)  # type: ignore[arg-type]
    for handler in (yields, yields_later):
        with pytest.raises(TypeError, match="yield"):
            Receiver(SECRET).on("job.failed")(handler)


@pytest.mark.parametrize(("length", "status"), [("\u00b2", 401), ("9" * 5_000, 204), ("", 401), ("-1", 401)])
def test_hostile_length_of_a_wsgi_request_is_answered(length: str, status: int) -> None:
    body, headers = Request().sent()
    assert over_wsgi(receiver([]), "POST", {**headers, "Content-Length": length}, body) == status


def test_secret_comes_from_the_environment_or_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
    with pytest.raises(ValueError, match="WEBHOOK_SECRET"):
        Receiver()
    body, headers = Request().sent()
    for secret in (SECRET, SECRET + "\n"):
        monkeypatch.setenv("WEBHOOK_SECRET", secret)
        receives = Receiver()
        receives.on()(lambda event: None)
        assert receives.handle("POST", headers, body).status == 204
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_wrong")
    with pytest.raises(ValueError, match="whsec_ and base64"):
        Receiver()


async def over_asgi(receives: Receiver, method: str, headers: Mapping[str, str], body: bytes) -> int:
    parts = [body[at : at + 60_000] for at in range(0, len(body), 60_000)] or [b""]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await receives({"type": "http", "method": method, "headers": raw}, receive, send)
    status: int = sent[0]["status"]
    return status


def over_wsgi(receives: Receiver, method: str, headers: Mapping[str, str], body: bytes) -> int:
    environ: dict[str, Any] = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
    environ["CONTENT_LENGTH"] = environ.pop("HTTP_CONTENT_LENGTH", str(len(body)))
    environ |= {"REQUEST_METHOD": method, "wsgi.input": io.BytesIO(body)}
    started: list[str] = []
    b"".join(receives.wsgi(environ, lambda status, _headers: started.append(status)))
    return int(started[0].split()[0])


def test_wrong_secret_and_changed_body_are_told_apart_from_an_old_request() -> None:
    """A request that is old and forged is forged: whoever signed it has no say about time."""
    forged = replace(Request(seconds_ago=600), secrets=(OTHER,))
    with pytest.raises(WrongSecret):
        verify(*forged.sent(), SECRET)
