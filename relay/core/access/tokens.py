"""Tokens of the database, and how often a caller may ask: values and a time in, decisions out."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from relay.core.access.client_address import Network, is_within
from relay.core.values import value_class

QUOTA_SECONDS = 60.0
FREE_MISTAKES = 10
"""Wrong tokens that an address may send before it is slowed down."""
MISTAKE_SECONDS = 6.0
"""Time after which one mistake is forgiven, in seconds."""
MAX_MISTAKES = FREE_MISTAKES + 10
"""More are not counted, so that no caller waits longer than a minute."""

PUBLISH = "events:write"
"""The scope to publish events of every type that is free."""
SCOPES = ("read", "jobs:write", "subscriptions:write", "deliveries:write", PUBLISH, "metrics", "proxy", "admin")
"""Every scope of a token but those to publish under a prefix, such as `events:write:com.acme.`."""
SCOPE_PATTERN = rf"(?:{'|'.join(SCOPES)}|{PUBLISH}:[A-Za-z0-9_:/~+-]+(?:\.[A-Za-z0-9_:/~+-]+)*\.)"
MAX_SCOPE = 200
MAX_SCOPES = 50
SCOPE_FORM = f"one of {', '.join(SCOPES)}, or {PUBLISH}: with a prefix of types that ends with a dot"

MIN_TOKEN_CHARACTERS = 32
MIN_DISTINCT_CHARACTERS = 10

NAME_FORM = "a name of up to 64 letters, digits, dots, dashes and underscores"
NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

Refusal = Literal["expired", "network"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """A token of the database, without its secret. Times in epoch seconds.

    account   the source and account that it is bound to; None: all of them
    networks  where callers may come from; empty: anywhere
    """

    id: str
    name: str
    digest: str
    scopes: frozenset[str]
    created_at: float
    created_by: str
    expires_at: float | None = None
    last_used_at: float | None = None
    account: tuple[str, str] | None = None
    networks: tuple[Network, ...] = ()
    requests_per_minute: int | None = None


def is_token_name(text: str) -> bool:
    """True if a token can have this name."""
    return re.fullmatch(NAME_PATTERN, text) is not None


def weakness_of(token: str) -> str | None:
    """The weakness that makes a token easy to guess, as the end of a sentence; None if it is long and mixed enough."""
    if len(token) < MIN_TOKEN_CHARACTERS:
        return f"has fewer than {MIN_TOKEN_CHARACTERS} characters"
    if len(set(token)) < MIN_DISTINCT_CHARACTERS:
        return f"has fewer than {MIN_DISTINCT_CHARACTERS} different characters"
    return None


def is_scope(text: str) -> bool:
    """True if a token can have this scope."""
    return len(text) <= MAX_SCOPE and re.fullmatch(SCOPE_PATTERN, text) is not None


def in_order(scopes: Iterable[str]) -> list[str]:
    """Scopes as they are listed: the general ones, then those with a prefix."""
    return sorted(scopes, key=lambda one: (SCOPES.index(one) if one in SCOPES else len(SCOPES), one))


def publish_prefixes(scopes: Iterable[str]) -> tuple[str, ...]:
    """The prefixes of the types that these scopes allow to publish; events:write itself has none."""
    begins = f"{PUBLISH}:"
    return tuple(sorted(one.removeprefix(begins) for one in scopes if one.startswith(begins)))


def refusal_of(expires_at: float | None, networks: Sequence[Network], client: str, now: float) -> Refusal | None:
    """The reason why a token is not accepted from this address at this time; None if it is."""
    if expires_at is not None and now >= expires_at:
        return "expired"
    if networks and not is_within(client, networks):
        return "network"
    return None


@value_class(frozen=True, slots=True, kw_only=True)
class Quota:
    """The requests of a token since `began_at`, by a steady clock."""

    began_at: float
    count: int


@value_class(frozen=True, slots=True, kw_only=True)
class Spent:
    """The quota after a request: what is left, and the whole seconds until it is full again."""

    quota: Quota
    allowed: bool
    remaining: int
    resets_in_seconds: int


def spend(quota: Quota | None, limit: int, now: float) -> Spent:
    """Takes one request from a quota of `limit` in QUOTA_SECONDS. A refused request takes nothing."""
    if quota is None or not 0 <= now - quota.began_at < QUOTA_SECONDS:
        quota = Quota(began_at=now, count=0)
    allowed = quota.count < limit
    if allowed:
        quota = Quota(began_at=quota.began_at, count=quota.count + 1)
    left = quota.began_at + QUOTA_SECONDS - now
    return Spent(quota=quota, allowed=allowed, remaining=limit - quota.count, resets_in_seconds=max(1, math.ceil(left)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistakes:
    """Wrong tokens from an address: how many were not forgiven yet at a time of a steady clock."""

    count: float
    at: float


def mistake(before: Mistakes | None, now: float) -> tuple[Mistakes, int]:
    """Counts a wrong token. Returns the count, and the seconds until the address may send another one: 0 if now."""
    count = 0.0
    if before is not None:
        count = max(0.0, before.count - max(0.0, now - before.at) / MISTAKE_SECONDS)
    count = min(count + 1, MAX_MISTAKES)
    return Mistakes(count=count, at=now), math.ceil(max(0.0, count - FREE_MISTAKES) * MISTAKE_SECONDS)
