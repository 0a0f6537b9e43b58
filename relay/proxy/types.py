"""Values that pass through the proxy."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from relay.config.fields import is_header_text
from relay.config.settings import AccountSettings, Settings
from relay.core.access.forwarding import Header
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
    """A caller's request. `path` and `query` are unchanged; `headers` are those to forward."""

    caller: Caller
    method: str
    path: str
    query: str
    headers: Sequence[Header] = field(repr=False)
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBody:
    """A create's body: `whole` if it fits in memory; `parts` always, from the beginning at each iteration."""

    digest: str
    parts: AsyncIterable[bytes]
    whole: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingOptions:
    """What the `Relay-*` headers of a create attach to its job.

    caller  whose limit the callback's host counts for
    """

    metadata: Mapping[str, Any] | None = None
    callback_url: str | None = None
    callback_types: tuple[str, ...] | None = None
    caller: str | None = None
    group: str | None = None
    group_size: int | None = None


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
