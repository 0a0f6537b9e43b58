"""Access tokens of a source's accounts: OAuth 2.0 client credentials (RFC 6749, 4.4).

One token for each account's key, fetched when a request needs it, kept until shortly before its end, and renewed once
after a 401. A failing token endpoint is asked again after growing pauses, in which requests fail without it. What is
sent to it and read of it is the same as for the credentials of sinks.
"""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay.clock import Clock
from relay.core.deliveries import credentials
from relay.core.deliveries.credentials import NoToken, SinkCredential, Token
from relay.http.tokens import fetch_token
from relay.sources.sections import OAuth

if TYPE_CHECKING:
    from relay.http.sender import Transport

REFUSED_SECONDS = 60.0
"""Pause of renewals on 401 after the upstream has refused a new token too."""
MAX_KEPT = 10_000


class NoAccessToken(Exception):
    """There is no token. `is_refused`: the token endpoint does not accept the account's key."""

    def __init__(self, why: NoToken) -> None:
        super().__init__(why.detail)
        self.is_refused = why.other_method


@dataclass(slots=True, eq=False)
class _Kept:
    """The token of one key. `no_token`: why there is none; it is not asked for before `not_before`."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    token: Token | None = None
    no_token: NoToken | None = None
    failures: int = 0
    not_before: float = 0.0
    refused_until: float = 0.0
    secret_in_body: bool = False


class AccountTokens:
    """The tokens of one source on this node."""

    def __init__(self, oauth: OAuth, sender: "Transport", *, clock: Clock) -> None:
        self._oauth = oauth
        self._sender = sender
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def of(self, api_key: str) -> str:
        """The token for a key, `CLIENT_ID:CLIENT_SECRET`. Raises NoAccessToken."""
        kept = self._kept.get(api_key)
        if kept is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.pop(next(iter(self._kept)))
            kept = self._kept[api_key] = _Kept()
        async with kept.lock:  # requests that need a token at once share one
            now, token = self._clock(), kept.token
            if token is not None and token.stale_at > now:
                return token.value
            if kept.no_token is not None and now < kept.not_before <= now + credentials.MAX_PAUSE_SECONDS:
                raise NoAccessToken(kept.no_token)
            found = await self._fetch(api_key, kept)
            if isinstance(found, NoToken):
                kept.failures += 1
                pause = credentials.pause_seconds(kept.failures, found.retry_after_seconds)
                kept.no_token, kept.not_before = found, self._clock() + min(pause, credentials.MAX_PAUSE_SECONDS)
                raise NoAccessToken(found)
            kept.token, kept.no_token, kept.failures = found, None, 0
            return found.value

    def drop(self, api_key: str, token: str) -> None:
        """The upstream has refused this token: the next request gets another one, if a renewal may help."""
        kept = self._kept.get(api_key)
        is_kept = kept is not None and kept.token is not None and kept.token.value == token
        if kept is not None and is_kept and self._clock() >= kept.refused_until:
            kept.token = None

    def refuse(self, api_key: str) -> None:
        """The upstream has refused a new token too: for a while a 401 causes no renewal."""
        self._kept[api_key].refused_until = self._clock() + REFUSED_SECONDS

    async def _fetch(self, api_key: str, kept: _Kept) -> Token | NoToken:
        client_id, _, client_secret = api_key.partition(":")
        if not (client_id and client_secret):
            return NoToken(detail="the API key has to be CLIENT_ID:CLIENT_SECRET", other_method=True)
        fields = {
            "credentialtype": "CLIENTCREDENTIALS",
            "token_url": self._oauth.token_url,
            "client_id": client_id,
            "client_secret": client_secret,
            **({"scope": self._oauth.scope} if self._oauth.scope else {}),
        }
        credential = SinkCredential(id="", origin="", fields=fields)
        found, kept.secret_in_body = await fetch_token(
            self._sender, credential, None, secret_in_body=kept.secret_in_body, clock=self._clock
        )
        return found
