"""The record of an attempt: the response body as text or hex, without secrets that a sink echoes."""

import html
import json
from collections.abc import Callable
from functools import partial
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.deliveries.delivery import Attempt, OutboundRequest, Response
from relay.delivery.outcomes import (
    EXCERPT_CHARACTERS,
    HEADER_CHARACTERS,
    HEADERS_CHARACTERS,
    MAX_HEADERS,
    READ_BYTES,
    SHOWN_CHARACTERS,
    attempt_of,
)
from relay.redaction import MIN_SECRET_CHARACTERS, secrets_of, without

SECRET = "Zq7fKp2mXw9dLr4v"
words = st.text(st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=127), min_size=12, max_size=40)


def kept(body: bytes, *secrets: str, error: str | None = None) -> Attempt:
    response = Response(started_at=1.0, duration_ms=2.0, status_code=500, excerpt=body, error=error)
    return attempt_of(1, (), response, secrets=secrets)


@pytest.mark.parametrize(
    ("body", "excerpt", "is_hex"),
    [
        (b"", None, False),
        (b"no such hook", "no such hook", False),
        ("zu spät".encode(), "zu spät", False),
        ("zu spät".encode("latin-1"), b"zu sp\xe4t".hex(), True),
        (b"\x1f\x8b\x08\x00\xff", "1f8b0800ff", True),
        (b"a\x00b", "a\N{REPLACEMENT CHARACTER}b", False),
        ("é".encode() * EXCERPT_CHARACTERS * 2, "é" * EXCERPT_CHARACTERS, False),
        (b"\xff" * READ_BYTES, "ff" * (EXCERPT_CHARACTERS // 2), True),
        (b"ab\xc3", "6162c3", True),
    ],
)
def test_utf8_body_is_stored_as_text_and_other_bodies_as_hex(body: bytes, excerpt: str | None, is_hex: bool) -> None:
    attempt = kept(body)
    assert (attempt.response_excerpt, attempt.excerpt_is_hex) == (excerpt, is_hex)


def test_character_split_by_truncation_does_not_make_the_body_binary() -> None:
    long = b"a" * (READ_BYTES - 1) + "é".encode()
    assert kept(long).response_excerpt == "a" * EXCERPT_CHARACTERS
    assert kept(b"ab\xc3", error="read").response_excerpt == "ab", "the connection broke off there"


def test_secret_across_the_end_of_the_excerpt_is_redacted() -> None:
    for between in (b" ", b"\xff"):
        attempt = kept((SECRET.encode() * 3 + between) * 100, SECRET * 3)
        shown = attempt.response_excerpt or ""
        shown = bytes.fromhex(shown).decode("latin-1") if attempt.excerpt_is_hex else shown
        assert "[redacted]" in shown
        assert SECRET[:4] not in shown


def test_secrets_a_sink_may_echo() -> None:
    sink = f"https://sink.example/hook/open-path?mode=1&code={SECRET}%2Fx&lonely-credential"
    found = secrets_of(
        sink, "https://sink.example/hook/open-path?…", (("X-Api-Key", f"Bearer {SECRET}9"), ("X-a", "b"))
    )
    assert set(found) == {
        f"mode=1&code={SECRET}%2Fx&lonely-credential",
        f"mode=1&code={SECRET}/x&lonely-credential",
        f"{SECRET}%2Fx",
        f"{SECRET}/x",
        "lonely-credential",
        f"Bearer {SECRET}9",
        f"{SECRET}9",
        "/hook/open-path",
    }
    assert list(found) == sorted(found, key=len, reverse=True), "a part is taken out after the whole"
    assert all(len(each) >= MIN_SECRET_CHARACTERS for each in found)
    hook = secrets_of(f"https://hooks.example/hooks/T0/{SECRET}/", "https://hooks.example/…", ())
    assert set(hook) == {f"/hooks/T0/{SECRET}", SECRET}
    assert secrets_of("https://sink.example", "https://sink.example", ()) == ()
    assert secrets_of("https://sink.example/a?", "https://sink.example/a", ()) == ()


@pytest.mark.parametrize(
    "escape",
    [
        lambda one: json.dumps(json.dumps(one)[1:-1]),
        lambda one: "".join(f"\\u{ord(character):04x}" for character in one),
        lambda one: "".join(f"&#x{ord(character):X};" for character in one),
        lambda one: one.replace("/", "&#47;").replace("o", "\\x6f").replace("s", "%73"),
        lambda one: quote(quote(one, safe=""), safe=""),
        lambda one: html.escape(quote(one)).replace("%", "&percnt;"),
        lambda one: json.dumps(one),
        lambda one: json.dumps(one, ensure_ascii=False),
        lambda one: json.dumps(one).replace("/", "\\/"),
        html.escape,
        quote,
        quote_plus,
        partial(quote, safe=""),
    ],
)
@pytest.mark.parametrize("secret", ['pass"word\\one', "pass/word&one<two>'three'", "pässwörd one +"])
def test_escaped_echo_of_a_secret_is_taken_out(secret: str, escape: Callable[[str], str]) -> None:
    found = secrets_of("https://sink.example/hook", "https://sink.example/hook", (), (secret,))
    escaped = escape(secret).strip('"')
    response = Response(started_at=1.0, duration_ms=1.0, status_code=404, excerpt=f"you sent {escaped}.".encode())
    assert attempt_of(1, (), response, secrets=found).response_excerpt == "you sent [redacted]."


@pytest.mark.parametrize("end", ["", "\\", "\\u00", "%", "%2", "&", "&#x", "&am"])
@pytest.mark.parametrize("known", [1, 8, 17])
def test_beginning_of_an_escaped_secret_at_the_end_of_what_was_read_is_taken_out(known: int, end: str) -> None:
    secret = "Zq7fKp2mXw9dLr4v/a"
    escaped = "".join(f"\\u{ord(character):04x}" for character in secret[:known]) + end
    shown = without(f"{'x' * 100}{escaped}", (secret,), cut=True)
    assert shown == "x" * len(shown)


def test_error_and_decision_hold_no_secret() -> None:
    response = Response(started_at=1.0, duration_ms=2.0, error="protocol", detail=f"{SECRET} was said")
    attempt = attempt_of(1, (), response, secrets=(SECRET,), decision=f"{SECRET}: given up")
    assert (attempt.error, attempt.decision) == ("protocol: [redacted] was said", "[redacted]: given up")


@given(words, st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(["query", "header", "path"]))
def test_attempt_holds_no_secret_of_the_subscription(secret: str, before: bytes, after: bytes, place: str) -> None:
    sink = "https://sink.example/hook"
    headers: tuple[tuple[str, str], ...] = ()
    shown = sink
    if place == "query":
        sink, shown = f"{sink}?k={quote(secret)}", f"{sink}?…"
    elif place == "path":
        sink, shown = f"{sink}/{secret}", "https://sink.example/…"
    else:
        headers = (("X-Token", secret),)
    response = Response(
        started_at=1.0,
        duration_ms=1.0,
        status_code=404,
        headers=(("Location", f"/x?{secret}"), ("X-Echo", f"a{secret}b"), ("Set-Cookie", secret)),
        excerpt=before + secret.encode() + after,
    )
    attempt = attempt_of(1, headers, response, secrets=secrets_of(sink, shown, headers))
    excerpt = attempt.response_excerpt or ""
    assert secret not in repr(attempt)
    if attempt.excerpt_is_hex:
        assert secret.encode() not in bytes.fromhex(excerpt)


def headers_of(*headers: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    response = Response(started_at=1.0, duration_ms=2.0, status_code=200, headers=headers)
    attempt = attempt_of(1, headers, response)
    assert attempt.request_headers == attempt.response_headers
    return attempt.response_headers


def test_headers_are_bounded_in_total_and_the_rest_is_counted() -> None:
    long = [(f"X-{number}", "v" * 8000) for number in range(100)]
    shown = headers_of(*long)
    assert sum(len(name) + len(value) for name, value in shown) <= HEADERS_CHARACTERS + 20
    assert shown[-1] == ("…", f"{len(long) - len(shown) + 1} more, not kept")
    many = headers_of(*[("X", "y")] * (MAX_HEADERS + 7))
    assert (len(many), many[-1]) == (MAX_HEADERS + 1, ("…", "7 more, not kept"))
    assert len(headers_of(*[("X", "y")] * MAX_HEADERS)) == MAX_HEADERS


def test_secret_is_redacted_before_truncation() -> None:
    address = "somebody@example.com"
    value = "v" * (HEADER_CHARACTERS - 10) + " " + address * 50
    ((_, shown),) = headers_of(("X-A", value))
    assert "somebody" not in shown
    response = Response(started_at=1.0, duration_ms=2.0, status_code=200, headers=(("X-A", f"a{SECRET * 200}"),))
    ((_, shown),) = attempt_of(1, (), response, secrets=(SECRET,)).response_headers
    assert SECRET[:4] not in shown


def test_requests_of_a_dry_run_are_redacted_and_cut_where_they_are_too_long_together() -> None:
    url = "https://acme.test/contacts?email=alex@example.com"
    made_up = [
        OutboundRequest(url=url, method="GET"),
        OutboundRequest(url="https://hooks.slack.com/services/T0/B0/abc", body=b"token abc-123456 \xff \0"),
        *(OutboundRequest(url="https://acme.test/notes", body=b"x" * 10_000) for _ in range(3)),
    ]
    response = Response(started_at=0.0, duration_ms=0.0)
    made = attempt_of(1, (), response, secrets=("abc-123456",), made_up=made_up).requests
    assert made is not None
    assert [one.url for one in made[:2]] == ["https://acme.test/contacts?…", "https://hooks.slack.com/…"]
    assert made[1].body == "token [redacted] \N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}"
    assert [one.body.endswith("…[truncated]") for one in made[2:]] == [False, True, True]
    assert sum(len(one.body) for one in made) < SHOWN_CHARACTERS + 50
    assert attempt_of(1, (), response).requests is None
