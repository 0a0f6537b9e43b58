"""What the drop-in proxy needs of the rooms that the API does not know."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from relay.core.passing import Header
from relay.core.records import Intent, Page, Resolution

Cache = Literal["hit", "miss", "pass"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Whose account a call speaks for. `account` is None for a key that is none of ours: it is passed on, untracked."""

    source: str
    account: str | None
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passing:
    """A caller's request on its way. `path` and `query` are as they came; `headers` are those that go on."""

    speaker: Speaker
    method: str
    path: str
    query: str
    headers: Sequence[Header] = field(repr=False)
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A create's body: `whole` where it is small, `parts` in any case, each time from the beginning."""

    digest: str
    parts: AsyncIterable[bytes]
    whole: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """What a create's own headers attach to the job that it makes."""

    metadata: Mapping[str, Any] | None = None
    callback_url: str | None = None
    callback_types: tuple[str, ...] | None = None


class Reply(Protocol):
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
    def adopts(self) -> bool:
        """Whether a create with an unknown key makes an account of it."""

    def whose(self, key: str | None) -> Speaker:
        """Whom a request with this key speaks for."""

    def standing(self) -> Speaker | None:
        """The account that a relay token stands for; None where no single one has a key."""

    def with_its_key(self, headers: Sequence[Header], speaker: Speaker) -> list[Header]:
        """The headers with the account's own key in the place of a token of ours."""

    def is_create(self, speaker: Speaker, method: str, path: str) -> bool:
        """Whether the request makes a job."""

    def job_read(self, speaker: Speaker, method: str, path: str, query: str) -> str | None:
        """The id of the job that the request reads; None where it is another request."""

    def known(self, speaker: Speaker, external_id: str, *, ended: bool) -> Reply | None:
        """The answer to the read of a job where memory has one that is as good as the upstream's; None where it may be
        found elsewhere. With `ended` only that of a job that has ended."""

    async def create(self, passing: Passing, body: Body, extra: Extra) -> Reply:
        """Sends a create once, and tracks the job that it makes. Raises Unavailable where it was not sent."""

    async def read(self, passing: Passing, external_id: str, *, fresh: bool, wait_seconds: float) -> Reply:
        """Answers the read of a job: from what is known where that is as good, else by asking the upstream."""

    async def pass_on(self, passing: Passing, body: AsyncIterable[bytes] | None) -> Reply:
        """Passes any other request on."""

    def problem(self, speaker: Speaker, status: int, code: str, message: str, request_id: str) -> Reply:
        """An error of our own in the upstream's shape."""

    def answered(self, kind: str, reply: Reply) -> None:
        """For the metrics; `kind`: create, read or other."""

    async def intents(self, *, limit: int, cursor: str | None = None) -> Page[Intent]:
        """The creates whose fate is unknown, newest first."""

    async def resolve(self, intent_id: str, fate: Resolution, job_id: str | None) -> Intent:
        """What a person found out of one; with `job_id` that job is tracked. Raises NotFound, Conflict."""

    async def dismiss(self, intent_id: str) -> Intent | None:
        """Somebody took care of it. None where there is no such."""
