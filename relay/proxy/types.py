"""Values that pass through the proxy, and the interface between its HTTP half and its gateway."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from relay.core.forwarding import Header

Cache = Literal["hit", "miss", "pass"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The account a request acts for. `account` is None for an unknown key: its requests are not tracked."""

    source: str
    account: str | None
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
    """What the `Relay-*` headers of a create attach to its job."""

    metadata: Mapping[str, Any] | None = None
    callback_url: str | None = None
    callback_types: tuple[str, ...] | None = None


class ProxyResponse(Protocol):
    """An answer to the caller."""

    status: int
    headers: list[Header]
    cache: Cache
    age_seconds: int | None
    whole: bytes | None
    """The complete body; None while it has to be streamed from `parts`."""

    def parts(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises NoAnswer if it breaks off."""

    def close(self) -> None:
        """Must always be called."""


class DropIn(Protocol):
    """The proxy without its HTTP."""

    @property
    def adopts_keys(self) -> bool:
        """True if a create with an unknown key makes an account of it."""

    def caller_for(self, key: str | None) -> Caller:
        """The caller with this key."""

    def default_caller(self) -> Caller | None:
        """The account a relay token acts for; None if the choice is ambiguous."""

    def with_account_key(self, headers: Sequence[Header], caller: Caller) -> list[Header]:
        """The headers with the relay token replaced by the account's own key."""

    def is_create(self, caller: Caller, method: str, path: str) -> bool:
        """True if the request creates a job."""

    def job_read(self, caller: Caller, method: str, path: str, query: str) -> str | None:
        """The id of the job the request reads; None for any other request."""

    def from_memory(self, caller: Caller, external_id: str, *, ended: bool) -> ProxyResponse | None:
        """The cached answer to a job read, if as current as the upstream's own. With `ended`, only a final one."""

    async def create(self, request: ForwardedRequest, body: CreateBody, options: TrackingOptions) -> ProxyResponse:
        """Sends a create once and tracks the job it makes. Raises Unavailable if nothing was sent."""

    async def read(
        self, request: ForwardedRequest, external_id: str, *, fresh: bool, wait_seconds: float
    ) -> ProxyResponse:
        """Answers a job read from recorded state if that is current, else from the upstream."""

    async def forward(self, request: ForwardedRequest, body: AsyncIterable[bytes] | None) -> ProxyResponse:
        """Forwards any other request."""

    def problem(self, caller: Caller, status: int, code: str, message: str, request_id: str) -> ProxyResponse:
        """A relay error in the upstream's shape."""

    def count(self, kind: str, response: ProxyResponse) -> None:
        """Counts the answer in the metrics. `kind`: create, read or other."""
