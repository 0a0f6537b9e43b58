"""Poll results as the poller sees them, and how a failed one is recorded."""

from collections.abc import Mapping
from typing import Any, Protocol

from relay.core.job import Observation


class UpstreamError(Protocol):
    """An error answer of the upstream."""

    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def request_id(self) -> str | None: ...


class PollResult(Protocol):
    """The result of one poll. See `relay.sources.client.PollResult`."""

    @property
    def kind(self) -> str: ...
    @property
    def observation(self) -> Observation | None: ...
    @property
    def status_code(self) -> int | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def error(self) -> UpstreamError | None: ...
    @property
    def sent_at(self) -> float: ...
    @property
    def received_at(self) -> float: ...
    @property
    def duration_ms(self) -> float: ...
    @property
    def request_id(self) -> str | None: ...
    @property
    def detail(self) -> str: ...


class Upstream(Protocol):
    """The upstream client. Raises only CancelledError."""

    async def poll(self, external_id: str, api_key: str) -> PollResult: ...
    async def probe(self, api_key: str) -> PollResult: ...


def problem_of(result: PollResult, now: float) -> dict[str, Any]:
    """A failed result as a job's `last_error`."""
    error = result.error
    return {
        "code": (error.code if error is not None else "") or result.kind,
        "message": (error.message if error is not None else "") or result.detail or result.kind,
        "request_id": result.request_id,
        "at": now,
    }
