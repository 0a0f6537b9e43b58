"""Seeded random requests for the proxy: typical ones, and those that no careful client sends."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import orjson

from tests.support.wire import request

KEY = "sk-revor-acme"
DISPATCHES = "/api/v1/outreach/dispatches"
POST_LIKES = "/api/v1/outreach/linkedin/post-likes"
JOBS = "/api/v1/outreach/jobs/"
ACCOUNTS = "/api/v1/connect/accounts"
CREATES = (DISPATCHES, POST_LIKES)
DISPATCH = {
    "account_id": "connect_account_xxx",
    "channel": "linkedin",
    "action": "outreach",
    "recipient": {"profile_url": "https://www.linkedin.com/in/example/", "name": "Zoë Łukasz 王"},
    "content": {"text": "Hello, \u2028 and “welcome”"},
    "min_channel_task_interval_seconds": 240,
}
POST_LIKE = {"profile_url": "https://www.linkedin.com/in/example/", "topic": "logistics"}
MEBIBYTE = 1 << 20

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "REPORT", "PURGE", "QUERY")
ODD_PATHS = (
    *("/api/v1/", "/api/v2/", "/api/v1/nothing/here", "/api/v2/jobs/j_1", "/api/v2/credits", "/api/v2/websets/"),
    *("/api/v1/outreach/jobs/a%2Fb", "/api/v1/outreach/jobs/a%2fb%25c", "/api/v1/%2e%2e%2e/x%2Ey", "/api/v1/100%"),
    *("/api/v1/%zz", "/api/v1/%", "/api/v1/%20", "/api/v1/%ff%fe", "/api/v1/caf%C3%A9", "/api/v1/%E7%8E%8B"),
    *("/api/v1//outreach//jobs/", "/api/v2///", "/api/v1/.x/x.", "/api/v1/a/.../b", "/api/v1/x..", "/api/v1/..x"),
    *("/api/v1/x;y=1;z", "/api/v1/x:y@z", "/api/v1/a+b%20c", "/api/v1/!$&'()*,=~", "/api/v1/[x]|{y}^`", '/api/v1/"q"'),
    *("/api/v1/outreach/dispatches/", "/api/v1/outreach/Dispatches", "/api/v1/outreach%2Fdispatches"),
    *("/api/v1/" + "long/" * 400, "/api/v1/" + "%41" * 1000),
)
QUERIES = (
    *("", "a=1", "a=1&a=2&a", "a=b=c&=&&", "q=%20+%2B", "q=%zz%", "q=a?b/c", "next=https://x.example/?a=1", "%00=%ff"),
    *("channel=email", "channel=fax", "can_send=true", "can_send=maybe", "channel=linkedin&can_send=false"),
    *("??", "[]={}|"),
    *("q=" + "x" * 8_000, "&".join(f"k{n}={n}" for n in range(800))),
)
ODD_HEADERS: tuple[Sequence[tuple[str, str]], ...] = (
    (),
    (("X-Empty", ""),),
    (("X-Twice", "one"), ("X-Between", "-"), ("X-Twice", "two"), ("x-twice", "one")),
    (("X-Name", "Zoë Łukasz 王 🚀"),),
    (("X-Spaces", "  a  \t b  "), ("X-Commas", ",, ,"), ("X-Quotes", '"a\\"b", c; d="e;f"')),
    (("Cookie", "a=1; b=2"), ("Cookie", 'c="3"; bad[cookie]=x; =; ;')),
    (("Connection", "keep-alive, X-Hop"), ("X-Hop", "only for the next"), ("Keep-Alive", "timeout=5")),
    (("TE", "trailers"), ("Connection", "TE"), ("Proxy-Authorization", "Basic eDp5"), ("Proxy-Connection", "close")),
    (("Prefer", "wait=1"), ("Prefer", "return=minimal")),
    (("Prefer", "respond-async, wait=0"),),
    (("If-None-Match", '"abc", W/"d"'), ("If-Modified-Since", "Wed, 20 May 2026 10:00:00 GMT"), ("Range", "bytes=0-9")),
    (("X-Forwarded", "https"), ("X-Via", "1.1 somebody"), ("User-Agent", ""), ("Accept", "*/*;q=0.1, text/*")),
    (("Referer", "https://crm.example/?a=1#b"), ("Date", "Wed, 20 May 2026 10:00:00 GMT"), ("Accept-Language", "zh")),
    (("Max-Forwards", "0"), ("Warning", '199 - "x"'), ("Cache-Control", "max-age=0"), ("Pragma", "no-cache")),
    (("X-Long", "v" * 16_000),),
    tuple((f"X-Many-{number}", str(number)) for number in range(90)),
)
ACCEPT_ENCODINGS = (
    *(None, "", "gzip", "gzip, deflate, br, zstd", "br", "identity", "*", "gzip;q=0", "br;q=1.0, gzip;q=0.8, *;q=0.1"),
    *("GZIP , Deflate", "x-gzip", "identity;q=0, *;q=0"),
)
ALL_KEYS: tuple[Sequence[tuple[str, str]], ...] = (
    (("Authorization", f"Bearer {KEY}"),),
    (("x-api-key", KEY),),
    (("Authorization", f"bearer   {KEY} "),),
    (("Authorization", f"Bearer {KEY}"), ("X-API-Key", "sk-revor-other")),
    (("Authorization", "Bearer sk-revor-other"), ("X-API-Key", KEY)),
    (("Authorization", f"Basic {KEY}"), ("x-api-key", KEY)),
    (("Authorization", "Basic eDp5"),),
    (("Authorization", "Bearer"),),
    (("Authorization", "Bearer  "), ("x-api-key", KEY)),
    (("x-api-key", ""),),
    (),
    (("Authorization", "Bearer sk-revor-expired"),),
    (("Authorization", "Bearer sk-revor-revoked-1"),),
    (("Authorization", "Bearer sk-revor-readonly-acme"),),
    (("Authorization", f"Bearer {KEY}-second"),),
    (("Authorization", "Bearer no-such-key"),),
    (("Authorization", "Bearer sk-revor-Ω"),),
)
BODIES = (
    *(b"", b"{", b"null", b"[]", b'"text"', b"{}", b'{"a":1,"a":2}', b"\xff\xfe\x00", b'{"channel":"fax"}', b"NaN"),
    *(b" " * 70_000, orjson.dumps({**DISPATCH, "metadata": {"note": "x" * MEBIBYTE}}), bytes(range(256)) * 16),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One request. `headers` without framing, `body` before framing."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    raw: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def creates(self) -> bool:
        return self.method == "POST" and self.path in CREATES


class Requests:
    """Draws requests. `jobs` are the ids of existing jobs."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._idempotency_keys = ["first", "second", "Ünïcode", "k" * 255, "k" * 300]
        self.jobs: list[str] = []

    def draw(self) -> Made:
        """The next request."""
        kind = self._rng.choices((self._create, self._read, self._accounts, self._odd), weights=(30, 25, 15, 30))[0]
        return kind()

    def _create(self) -> Made:
        rng = self._rng
        path = rng.choice(CREATES)
        good = DISPATCH if path == DISPATCHES else POST_LIKE
        headers = [*self._key(), ("Content-Type", "application/json"), *self._more()]
        body = orjson.dumps({**good, "metadata": {"case": rng.randrange(1000)}})
        if rng.random() < 0.25:
            body = rng.choice(BODIES)
        if rng.random() < 0.4:
            headers.append(("Idempotency-Key", rng.choice(self._idempotency_keys)))
            body = orjson.dumps({**good, "metadata": {"case": rng.randrange(2)}})
        return self._made("POST", path + self._query(0.05), headers, body)

    def _read(self) -> Made:
        rng = self._rng
        job_id = rng.choice(self.jobs) if self.jobs and rng.random() < 0.8 else f"no-such-job-{rng.randrange(9)}"
        headers = [*self._key(), *self._more()]
        if rng.random() < 0.3:
            headers.append(("Cache-Control", rng.choice(("no-cache", "No-Cache", "no-store", "max-age=60"))))
        method = rng.choices(("GET", "HEAD", "DELETE"), weights=(90, 8, 2))[0]
        return self._made(method, f"{JOBS}{job_id}{self._query(0.1)}", headers, b"")

    def _accounts(self) -> Made:
        return self._made(self._rng.choice(("GET", "GET", "HEAD")), ACCOUNTS + self._query(0.8), self._key(), b"")

    def _odd(self) -> Made:
        rng = self._rng
        path = rng.choice((*ODD_PATHS, *CREATES, ACCOUNTS))
        method = rng.choice(METHODS)
        headers = [*self._key(), *self._more(), *rng.choice(ODD_HEADERS)]
        body = b"" if method == "TRACE" else rng.choice(BODIES)
        return self._made(method, path + self._query(0.5), headers, body)

    def _key(self) -> list[tuple[str, str]]:
        usual = self._rng.random() < 0.7
        return [*(ALL_KEYS[self._rng.randrange(2)] if usual else self._rng.choice(ALL_KEYS))]

    def _more(self) -> list[tuple[str, str]]:
        rng = self._rng
        coding = rng.choice(ACCEPT_ENCODINGS)
        return [*([] if coding is None else [("Accept-Encoding", coding)]), *rng.choice(((), (), *ODD_HEADERS))]

    def _query(self, share: float) -> str:
        query = self._rng.choice(QUERIES) if self._rng.random() < share else ""
        return f"?{query}" if query else ""

    def _made(self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes) -> Made:
        """Frames the body in a random way."""
        rng = self._rng
        chunks: list[bytes] | None = None
        with_length: bytes | None = body or None
        if rng.random() < 0.3:
            if rng.random() < 0.5:
                with_length = body
            else:
                size = rng.choice((1_000, 70_000, 1 << 20)) if len(body) > 5_000 else rng.choice((1, 7, 1_000))
                chunks = [body[at : at + size] for at in range(0, len(body), size)]
                with_length = None
        raw = request(method, target, headers, with_length, chunks=chunks)
        return Made(method=method, target=target, headers=tuple(headers), body=body, raw=raw)
