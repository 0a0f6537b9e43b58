"""Every token that this node accepts, in memory: those of the settings and those of the database.

A request's token is looked up by its digest. The time of a look-up reveals nothing: a stranger cannot predict the hash,
and values are compared only if the whole hash is equal.
One `Access` lives as long as its node. A reload and a change in the database replace its tokens, and what waits under a
token that is gone is woken to end (`holds`).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from relay.api.http.auth import Identity, WrongToken, client_of
from relay.api.http.dependencies import Token
from relay.clock import Clock, steady_clock
from relay.core.access.client_address import Network, client_address, group_of, is_within
from relay.core.access.tokens import AccessToken, Mistakes, Quota, mistake, refusal_of, spend
from relay.errors import RequestError, TooMany
from relay.ids import TOKEN_PREFIX
from relay.limiter import Limiter

MAX_ADDRESSES = 10_000
"""Addresses whose wrong tokens are remembered; the one whose last is oldest is forgotten first."""
MAX_HELD = 100
MAX_HELD_OF_AN_ADDRESS = 4
HOLD_SECONDS = 1.0
"""Delay of the answer to a wrong token once its address has sent too many, in seconds."""
QUOTA_NAME = "token"
_PEER = "relay.peer"
"""Scope key of the address that connected to us; `client` may name another one, from a forwarding header."""
LIMITS = "relay.limits"
"""The key in a scope of the headers `RateLimit` and `RateLimit-Policy` of its answer, if its caller's requests are
limited (draft-ietf-httpapi-ratelimit-headers)."""


@dataclass(slots=True, kw_only=True)
class _Entry:
    """An accepted token."""

    name: str
    scopes: frozenset[str]
    digest: bytes
    stored: AccessToken | None = None
    used_at: float | None = None
    quota: Quota | None = None


class Access:
    """The tokens, their quotas and uses, and the wrong tokens of each address."""

    def __init__(
        self,
        *,
        clock: Clock,
        trusted_proxies: Sequence[Network] = (),
        steady: Clock = steady_clock,
        hold_seconds: float = HOLD_SECONDS,
    ) -> None:
        """`clock`: for expiry and uses. `steady`: for quotas and wrong tokens."""
        self.trusted_proxies = tuple(trusted_proxies)
        self._clock = clock
        self._steady = steady
        self._hold_seconds = hold_seconds
        self._of_settings: Mapping[bytes, _Entry] = {}
        self._of_database: Mapping[bytes, _Entry] = {}
        self._entries: Mapping[bytes, _Entry] = {}
        self._next_expiry_at: float | None = None
        self._planned_at = clock()
        self._addresses: OrderedDict[str, Mistakes] = OrderedDict()
        self._held = Limiter("answers", MAX_HELD, MAX_HELD_OF_AN_ADDRESS)

    # --- the tokens

    def configure(self, tokens: Iterable[Token]) -> bool:
        """Takes the tokens of the settings, in place of those before. True if one of them is gone or has changed."""
        self._of_settings = {
            (digest := _digest(one.value)): _Entry(name=one.name, scopes=one.scopes, digest=digest) for one in tokens
        }
        return self._join()

    def load(self, tokens: Iterable[AccessToken]) -> bool:
        """Takes the tokens of the database, in place of those before, which keep their quotas and uses. True if one of
        them is gone."""
        before = self._of_database
        self._of_database = {
            (digest := bytes.fromhex(one.digest)): before.get(digest)
            or _Entry(name=one.name, scopes=one.scopes, digest=digest, stored=one)
            for one in tokens
        }
        return self._join()

    def _join(self) -> bool:
        before, self._entries = self._entries, {**self._of_database, **self._of_settings}
        self._plan_expiry()
        return any(
            (now := self._entries.get(digest)) is None or (now.name, now.scopes) != (entry.name, entry.scopes)
            for digest, entry in before.items()
        )

    def _plan_expiry(self) -> None:
        now = self._planned_at = self._clock()
        times = (entry.stored.expires_at for entry in self._of_database.values() if entry.stored is not None)
        self._next_expiry_at = min((at for at in times if at is not None and at > now), default=None)

    @property
    def names(self) -> frozenset[str]:
        """The names of the tokens of the settings."""
        return frozenset(entry.name for entry in self._of_settings.values())

    @property
    def has_stored(self) -> bool:
        """True if the database has a token."""
        return bool(self._of_database)

    def some_expired(self) -> bool:
        """True if a token has expired since the last call that returned True."""
        now = self._clock()
        if now < self._planned_at:
            self._plan_expiry()  # the clock was set back: what had expired is valid again, until its time
        if self._next_expiry_at is None or now < self._next_expiry_at:
            return False
        self._plan_expiry()
        return True

    def used_at(self, token: AccessToken) -> float | None:
        """Time of the token's last use if it is not stored yet; None otherwise."""
        entry = self._of_database.get(bytes.fromhex(token.digest))
        return None if entry is None else entry.used_at

    def take_uses(self) -> dict[str, float]:
        """Times of last use of the database's tokens, by id, since the last call."""
        uses: dict[str, float] = {}
        for entry in self._of_database.values():
            if entry.used_at is not None and entry.stored is not None:
                uses[entry.stored.id], entry.used_at = entry.used_at, None
        return uses

    # --- a request

    def address(self, scope: Scope) -> None:
        """Puts the caller's address into the scope, where a trusted proxy names it."""
        if self.trusted_proxies and _PEER not in scope:
            headers = Headers(scope=scope)
            scope[_PEER] = peer = client_of(scope)
            believed = client_address(
                peer,
                forwarded_for=headers.getlist("x-forwarded-for"),
                forwarded=headers.getlist("forwarded"),
                trusted=self.trusted_proxies,
            )
            scope["client"] = (believed, 0)

    def is_proxied(self, scope: Mapping[str, Any]) -> bool:
        """True if a trusted proxy has sent the request: it connected to us itself. After `address`."""
        return _PEER in scope and is_within(scope[_PEER], self.trusted_proxies)

    def is_token(self, value: str) -> bool:
        """True if this is a token of this relay, or has the form of one. Says nothing of where it may be used from."""
        return value.startswith(TOKEN_PREFIX) or _digest(value) in self._entries

    def identify(self, value: str, scope: MutableMapping[str, Any]) -> Identity | None:
        """The caller that sent this token; None if it is not accepted, or not from this address. Raises TooMany if its
        quota is used up. Puts what is left of it into the scope, as LIMITS."""
        return self.of_digest(_digest(value), scope)

    def of_digest(self, digest: bytes, scope: MutableMapping[str, Any]) -> Identity | None:
        """The caller that acts as the token with this digest, as `identify` gives it: for those who have proved before
        that they hold it. Raises TooMany."""
        entry = self._entries.get(digest)
        return None if entry is None else self._caller(entry, scope)

    def _caller(self, entry: _Entry, scope: MutableMapping[str, Any]) -> Identity | None:
        client, stored = client_of(scope), entry.stored
        if stored is not None:
            now = self._clock()
            refusal = refusal_of(stored.expires_at, stored.networks, client, now)
            if refusal is not None:
                scope["relay.refused"] = f"{entry.name}: {refusal}"  # for the log only: the caller may be a thief
                return None
            entry.used_at = now
            if stored.requests_per_minute is not None:
                self._spend(entry, stored.requests_per_minute, scope)
        return Identity(
            name=entry.name,
            scopes=entry.scopes,
            token_id=None if stored is None else stored.id,
            account=None if stored is None else stored.account,
            client=client,
            digest=entry.digest,
        )

    def holds(self, identity: Identity | None) -> bool:
        """True if the caller's token is still accepted, with the same permissions."""
        if identity is None or identity.digest is None:
            return True
        entry = self._entries.get(identity.digest)
        if entry is None or entry.name != identity.name or entry.scopes != identity.scopes:
            return False
        stored = entry.stored
        return stored is None or stored.expires_at is None or self._clock() < stored.expires_at

    def _spend(self, entry: _Entry, limit: int, scope: MutableMapping[str, Any]) -> None:
        spent = spend(entry.quota, limit, self._steady())
        entry.quota = spent.quota
        scope[LIMITS] = [
            (b"ratelimit-policy", b'"%s";q=%d;w=60' % (QUOTA_NAME.encode(), limit)),
            (b"ratelimit", b'"%s";r=%d;t=%d' % (QUOTA_NAME.encode(), spent.remaining, spent.resets_in_seconds)),
        ]
        if not spent.allowed:
            scope["relay.refused"] = f"{entry.name}: rate limit"
            detail = f"the token {entry.name} may send {limit:,} requests a minute: wait {spent.resets_in_seconds} s"
            raise TooMany(detail, code="rate_limited", headers={"Retry-After": str(spent.resets_in_seconds)})

    # --- wrong tokens

    async def slowed(self, error: WrongToken) -> RequestError:
        """The answer to a wrong token. From an address that has sent too many it is a 429, and held back. Valid tokens
        never wait, also from that address."""
        key = group_of(error.client)
        self._addresses[key], wait_seconds = mistake(self._addresses.get(key), self._steady())
        self._addresses.move_to_end(key)
        if len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        if wait_seconds == 0:
            return error
        headers = {"Retry-After": str(wait_seconds)}
        if self._held.reached(key) is None:
            with self._held.held(key):
                await asyncio.sleep(self._hold_seconds)
        else:
            headers["Connection"] = "close"
        detail = f"too many wrong tokens came from this address: {error}; try again in {wait_seconds} s"
        return TooMany(detail, code="too_many_wrong_tokens", headers=headers)


def _digest(value: str) -> bytes:
    return sha256(value.encode("utf-8", "surrogateescape")).digest()
