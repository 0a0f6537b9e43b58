"""Values that pass through the proxy."""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from relay.api.http.auth import USES_UPSTREAM, Identity
from relay.config.fields import is_header_text
from relay.config.settings import AccountSettings, Settings
from relay.core.access.forwarding import Header
from relay.core.jobs.job import JobKey
from relay.proxy.transport import UpstreamResponse

Cache = Literal["hit", "miss", "pass"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The account a request acts for. `account` is None for an unknown key: its requests are not tracked.

    bound  it came with a relay token that is bound to the account: what it attaches to a job belongs to the account
    """

    source: str
    account: str | None
    bound: bool = False
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardedRequest:
    """A caller's request. `path` and `query` are unchanged; `headers` are those to forward.

    identity  the relay's token that it came with; None: it came with a key of the upstream
    """

    caller: Caller
    identity: Identity | None
    method: str
    path: str
    query: str
    headers: Sequence[Header] = field(repr=False)
    request_id: str

    @property
    def by(self) -> str:
        """The key that the limits of one caller count by: the token, or the account whose key was sent."""
        return f"{self.caller.source}/{self.caller.account}" if self.identity is None else self.identity.key

    @property
    def actor(self) -> Identity:
        """The caller, for the audit: a token, or the holder of an upstream key."""
        name = f"key of {self.caller.source}/{self.caller.account or 'another account'}"
        return self.identity or Identity(name=name, scopes=frozenset())

    def require_upstream(self, what: str) -> None:
        """Raises Forbidden for a token that may read tracked jobs only."""
        if self.identity is not None:
            self.identity.require(USES_UPSTREAM, f"{what}, and ")


class QueriedRead(NamedTuple):
    """A job read with a query of its own. `wait_seconds`: how long the caller waits for the end; `query`: without that;
    `address`: the path and query that the job's own address has to have, None: it is read by its id."""

    place: JobKey
    wait_seconds: float
    query: str
    address: str | None


@dataclass(slots=True, kw_only=True)
class ProxyResponse:
    """An answer to the caller: the whole `body`, or `begun` and then the rest of `upstream`. Always `close` it."""

    status: int
    headers: list[Header]
    body: bytes | None = field(default=None, repr=False)
    begun: bytes = field(default=b"", repr=False)
    upstream: UpstreamResponse | None = field(default=None, repr=False)
    cache: Cache = "pass"
    age_seconds: int | None = None

    @classmethod
    def of(cls, answer: UpstreamResponse, body: bytes, *, complete: bool, cache: Cache = "pass") -> "ProxyResponse":
        """The upstream's answer, of which `body` has been read. Closes a complete answer."""
        if complete:
            answer.close()
            return cls(status=answer.status, headers=answer.headers, body=body, cache=cache)
        return cls(status=answer.status, headers=answer.headers, begun=body, upstream=answer, cache=cache)

    async def parts(self) -> AsyncIterator[bytes]:
        """The streamed body as it arrives. Raises NoAnswer if it breaks off."""
        if self.begun:
            yield self.begun
        if self.upstream is not None:
            async for part in self.upstream.body():
                yield part

    def close(self) -> None:
        """Ends the upstream's answer."""
        if self.upstream is not None:
            self.upstream.close()


def texts(headers: Sequence[Header]) -> dict[str, str]:
    """Headers as text, names lower-cased."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


MAX_ADOPTED = 1_000

Adopted = Mapping[tuple[str, str], str]
"""API keys by (source, account name)."""


def name_of(api_key: str) -> str:
    """The name of the account adopted for this key. Derived from a digest, so it reveals nothing about the key."""
    return f"key-{hashlib.sha256(api_key.encode()).hexdigest()[:16]}"


def with_adopted(settings: Settings, adopted: Adopted) -> Settings:
    """The settings with the adopted accounts added. Configured accounts take precedence."""
    sources = dict(settings.sources)
    for (source, name), api_key in adopted.items():
        if source in sources and name not in sources[source].accounts and is_header_text(api_key):
            accounts = {**sources[source].accounts, name: AccountSettings(name=name, api_key=api_key)}
            sources[source] = sources[source].replace(accounts=accounts)
    return settings.replace(sources=sources)
