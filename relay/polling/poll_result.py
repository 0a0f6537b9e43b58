"""One look at a job as the poller sees it: what the upstream answered, and what a failure is called afterwards."""

from collections.abc import Mapping
from typing import Any, Protocol

from relay.core.job import Observation


class UpstreamError(Protocol):
    """An upstream's own words about an error."""

    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def request_id(self) -> str | None: ...


class PollResult(Protocol):
    """What came of one request to the upstream; see `relay.sources.client.Look`."""

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
    """What reads jobs; it never raises but when it is cancelled."""

    async def poll(self, external_id: str, api_key: str) -> PollResult: ...
    async def probe(self, api_key: str) -> PollResult: ...


def problem_of(poll: PollResult, now: float) -> dict[str, Any]:
    """A look's failure as a job's `last_error`."""
    error = poll.error
    return {
        "code": (error.code if error is not None else "") or poll.kind,
        "message": (error.message if error is not None else "") or poll.detail or poll.kind,
        "request_id": poll.request_id,
        "at": now,
    }
