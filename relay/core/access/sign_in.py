"""Signing in to the dashboard: sessions, links, cookies, and checks of a request.

Text of a request in, decisions out.
"""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

SESSION_SECONDS = 12 * 3_600.0
"""The life of a session. Use does not prolong it."""
LINK_SECONDS = 120.0
"""Lifetime of a one-time link."""
NOTICE_SECONDS = 60.0
"""Lifetime of the notice in a link."""
MAX_SECONDS_DIGITS = 12
HOME = "/ui"
USER_PREFIX = "user:"
"""Begins the name of a user whom a proxy has signed in. No token's name has a colon."""
MAX_USER_CHARACTERS = 128
MAX_TARGET_CHARACTERS = 2_000

SessionKind = Literal["session", "link"]

_TARGET = re.compile(r"/ui(?:/[!$-\[\]-~]*)?(?:\?[!$-\[\]-~]*)?")
"""Printable ASCII without quotes and `#`, and without a backslash, which browsers read as a slash."""
_DOTS = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
"""A segment of a path that browsers resolve."""
_SIGNS_IN = ("/ui/login", "/ui/logout")
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session of the dashboard, or a link that makes one. Times in epoch seconds.

    digest        SHA-256 of its secret, in hexadecimal digits
    token_digest  of the token that it acts as
    name          of that token when the session was made
    """

    digest: str
    kind: SessionKind
    token_digest: str
    name: str
    created_at: float
    expires_at: float


def new_session(kind: SessionKind, secret: str, *, token_digest: bytes, name: str, now: float) -> Session:
    """A session or link of this secret that acts as the token of this digest and name."""
    return Session(
        digest=digest_of(secret),
        kind=kind,
        token_digest=token_digest.hex(),
        name=name,
        created_at=now,
        expires_at=now + (SESSION_SECONDS if kind == "session" else LINK_SECONDS),
    )


def is_secret(text: str) -> bool:
    """True if a text has the form of the secret of a session, a link or a visitor's cookie (`ids.new_secret`)."""
    return _SECRET.fullmatch(text) is not None


def digest_of(secret: str) -> str:
    """The digest that a session's secret is stored as."""
    return sha256(secret.encode()).hexdigest()


def csrf_of(secret: str, who: str = "") -> str:
    """The token in the forms of the visitor who holds this secret in a cookie. `who`: the user, if the cookie does not
    say who that is."""
    return hmac.new(secret.encode(), b"csrf" + who.encode(), sha256).hexdigest()


def sealed(csrf: str, notice: str, now: float) -> str:
    """A mark in a link, by which a page knows that its `notice` is of an action that this visitor has just carried
    out. `csrf`: the token in the visitor's forms, which no other site knows."""
    return _seal(csrf, notice, int(now + NOTICE_SECONDS))


def is_sealed(csrf: str, notice: str, seal: str, now: float) -> bool:
    """True if a mark is of this visitor and notice, and not older than NOTICE_SECONDS."""
    until = seal.partition(".")[0]
    if not (until.isascii() and until.isdigit() and len(until) <= MAX_SECONDS_DIGITS):
        return False
    return now <= int(until) and is_same(_seal(csrf, notice, int(until)), seal)


def _seal(csrf: str, notice: str, until: int) -> str:
    digest = hmac.new(csrf.encode(), f"done {until} {notice}".encode("utf-8", "surrogatepass"), sha256)
    return f"{until}.{digest.hexdigest()[:32]}"


def is_same(expected: str, given: str) -> bool:
    """True if a form's token is the expected one. Takes the same time for each wrong one."""
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogatepass"))


def secret_in(cookies: Sequence[str], name: str) -> str | None:
    """The secret in a cookie. None without one, and for several different ones: a neighbouring site can set one for
    this host too, and which of them comes first is for the browser to say. `cookies`: the values of `Cookie`."""
    pairs = (part.strip().partition("=") for header in cookies for part in header.split(";"))
    found = {value for given, _, value in pairs if given == name}
    secret = found.pop() if len(found) == 1 else ""
    return secret if is_secret(secret) else None


def is_own_page(fetch_site: Sequence[str]) -> bool:
    """True if a write may come from the dashboard's own page. `fetch_site`: the values of `Sec-Fetch-Site`, which
    browsers send over TLS and to this machine, and no page can change."""
    return all(value == "same-origin" for value in fetch_site)


def local_target(text: str | None) -> str:
    """The page that a browser opens after signing in: the page of the dashboard that it asked for, else the first one.
    Never another site, nor a path outside the dashboard."""
    if text is None or len(text) > MAX_TARGET_CHARACTERS or _TARGET.fullmatch(text) is None:
        return HOME
    path = text.partition("?")[0]
    return HOME if path.startswith(_SIGNS_IN) or _DOTS.search(path) else text


def user_named(values: Sequence[str]) -> str | None:
    """The name of the user whom a proxy has signed in; None without one. `values`: of its header, one character for
    each byte. Raises ValueError, whose text completes "the header ...", for several values or one that is no name."""
    if not values:
        return None
    if len(values) > 1:
        raise ValueError("has several values: the proxy must replace what the client sends")
    try:
        name = values[0].encode("latin-1").decode().strip()
    except UnicodeError:
        raise ValueError("is not in UTF-8") from None
    if not name:
        return None
    if len(name) > MAX_USER_CHARACTERS or not name.isprintable():
        raise ValueError(f"is no name: up to {MAX_USER_CHARACTERS} printable characters are expected")
    return USER_PREFIX + name


def came_by_tls(scheme: str, *, public_url: str | None, forwarded_proto: Sequence[str]) -> bool:
    """True if the browser reached the relay by TLS, so that its cookies are for TLS only. `forwarded_proto`: the values
    of `X-Forwarded-Proto` from a trusted proxy; the first one says how the browser came."""
    if scheme == "https" or (public_url or "").lower().startswith("https:"):
        return True
    return ",".join(forwarded_proto).partition(",")[0].strip().lower() == "https"
