"""What the drop-in proxy needs of the rooms that the API does not know."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from relay.core.forwarding import Header
from relay.core.records import Intent, Page, Resolution

Cache = Literal["hit", "miss", "pass"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose account a call speaks for. `account` is None for a key that is none of ours: it is passed on, untracked."""

    source: str
    account: str | None
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardedRequest:
    """A caller's request on its way. `path` and `query` are as they came; `headers` are those that go on."""

    caller: Caller
    method: str
    path: str
    query: str
    headers: Sequence[Header] = field(repr=False)
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBody:
    """A create's body: `whole` where it is small, `parts` in any case, each time from the beginning."""

    digest: str
    parts: AsyncIterable[bytes]
    whole: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingOptions:
    """What a create's own headers attach to the job that it makes."""

    metadata: Mapping[str, Any] | None = None
    callback_url: str | None = None
    callback_types: tuple[str, ...] | None = None


class ProxyResponse(Protocol):
    """An answer on its way back."""

    status: int
    headers: list[Header]
    cache: Cache
    age_seconds: int | None
    whole: bytes | None
    """The body where it is here already, else it is to be had from `parts`."""

    def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises NoAnswer when it breaks off."""

    def close(self) -> None:
        """To be called in any case."""


class DropIn(Protocol):
    """The drop-in proxy but for its HTTP."""

    @property
    def adopts_keys(self) -> bool:
        """Whether a create with an unknown key makes an account of it."""

    def caller_for(self, key: str | None) -> Caller:
        """Whom a request with this key speaks for."""

    def default_caller(self) -> Caller | None:
        """The account that a relay token stands for; None where no single one has a key."""

    def with_account_key(self, headers: Sequence[Header], caller: Caller) -> list[Header]:
        """The headers with the account's own key in the place of a token of ours."""

    def is_create(self, caller: Caller, method: str, path: str) -> bool:
        """Whether the request makes a job."""

    def job_read(self, caller: Caller, method: str, path: str, query: str) -> str | None:
        """The id of the job that the request reads; None where it is another request."""

    def from_memory(self, caller: Caller, external_id: str, *, ended: bool) -> ProxyResponse | None:
        """The answer to the read of a job where memory has one that is as good as the upstream's; None where it may be
        found elsewhere. With `ended` only that of a job that has ended."""

    async def create(self, request: ForwardedRequest, body: CreateBody, options: TrackingOptions) -> ProxyResponse:
        """Sends a create once, and tracks the job that it makes. Raises Unavailable where it was not sent."""

    async def read(
        self, request: ForwardedRequest, external_id: str, *, fresh: bool, wait_seconds: float
    ) -> ProxyResponse:
        """Answers the read of a job: from what is known where that is as good, else by asking the upstream."""

    async def pass_on(self, request: ForwardedRequest, body: AsyncIterable[bytes] | None) -> ProxyResponse:
        """Passes any other request on."""

    def problem(self, caller: Caller, status: int, code: str, message: str, request_id: str) -> ProxyResponse:
        """An error of our own in the upstream's shape."""

    def count(self, kind: str, response: ProxyResponse) -> None:
        """For the metrics; `kind`: create, read or other."""

    async def intents(self, *, limit: int, cursor: str | None = None) -> Page[Intent]:
        """The creates whose fate is unknown, newest first."""

    async def resolve(self, intent_id: str, fate: Resolution, job_id: str | None) -> Intent:
        """What a person found out of one; with `job_id` that job is tracked. Raises NotFound, Conflict."""

    async def dismiss(self, intent_id: str) -> Intent | None:
        """Somebody took care of it. None where there is no such."""
