"""Test doubles for the relay's tests and for yours: a clock, an upstream and a sink."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.jobs.connect_accounts import Listing
from relay.core.jobs.job import Observation


class FakeClock:
    """A clock that stands still until `advance`. Calling it returns the time in epoch seconds."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves the clock; a negative number sets it back."""
        self.now += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedError:
    """The error in an upstream's answer."""

    code: str = ""
    message: str = ""
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedPoll:
    """A response of a ScriptedSource, with the attributes of `relay.sources.client.PollResult`."""

    kind: str = "observed"
    observation: Observation | None = None
    listing: Listing | None = None
    status_code: int | None = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error: ScriptedError | None = None
    sent_at: float = 0.0
    received_at: float = 0.0
    duration_ms: float = 1.0
    request_id: str | None = "req_scripted"
    detail: str = ""
    held: bool = False
    document: Any = None
    elsewhere: bool = False
    moved_to: str | None = None


class ScriptedSource:
    """An upstream that answers polls as scripted for each job. The last answer repeats."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.polled: list[tuple[float, str]] = []
        self.resources: set[str] = set()
        """Those whose jobs were polled."""
        self.probes = 0
        self.key_works = True
        self.listings = 0
        self.listing = ScriptedPoll(listing=Listing(accounts={}))
        """The answer to a listing of connect accounts."""
        self.readings = 0
        self.credits = ScriptedPoll(document=1000)
        """The answer to a reading of credits."""
        self._scripts: dict[str, deque[ScriptedPoll]] = {}

    def script(self, external_id: str, *polls: ScriptedPoll) -> None:
        """Sets the answers to the next polls of this job."""
        self._scripts[external_id] = deque(polls)

    async def poll(self, external_id: str, api_key: str, resource: str = "", ways: object = None) -> ScriptedPoll:
        """The next scripted answer, or 404 for an unknown job."""
        self.polled.append((self.clock(), external_id))
        self.resources.add(resource)
        polls = self._scripts.get(external_id)
        if not polls:
            return self._timed(ScriptedPoll(kind="not_found", status_code=404))
        return self._timed(polls.popleft() if len(polls) > 1 else polls[0])

    async def probe(self, api_key: str) -> ScriptedPoll:
        """The answer to a request with the key."""
        self.probes += 1
        kind, status = ("observed", 200) if self.key_works else ("unauthorized", 401)
        return self._timed(ScriptedPoll(kind=kind, status_code=status))

    async def list_accounts(self, api_key: str) -> ScriptedPoll:
        """The connect accounts."""
        self.listings += 1
        return self._timed(self.listing)

    async def read_credits(self, api_key: str) -> ScriptedPoll:
        """The account's credits."""
        self.readings += 1
        return self._timed(self.credits)

    def _timed(self, poll: ScriptedPoll) -> ScriptedPoll:
        now = self.clock()
        seen = None if poll.observation is None else replace(poll.observation, observed_at=now)
        return replace(poll, observation=seen, sent_at=now, received_at=now)


class RecordingSink:
    """A transport that records each request and gives the scripted answers. The last one repeats."""

    def __init__(self, clock: FakeClock, *status_codes: int) -> None:
        self.clock = clock
        self.requests: list[OutboundRequest] = []
        self.answers: deque[Response | int] = deque(status_codes or (200,))

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        """Records the request."""
        self.requests.append(request)
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Response):
            return answer
        return Response(started_at=self.clock(), duration_ms=1.0, status_code=answer)
