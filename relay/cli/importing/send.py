"""Sends an import's registrations to the relay in batches, and waits out temporary errors."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from relay.cli.client import Api, ApiError, Unreachable, not_a_relay
from relay.cli.importing.lines import Fault
from relay.cli.output import note
from relay.core.retry_after import parse_retry_after
from relay.errors import RelayError

PATH = "/v1/jobs/batch"
ANSWER_SECONDS = 120.0
PATIENCE_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 15.0
# One entry that the relay cannot even read must not block the others in its batch.
CAUSED_BY_AN_ENTRY = frozenset({400, 413, 422})

Body = Mapping[str, Any]


@dataclass(slots=True)
class Result:
    """The result of a batch. `faults` is keyed by the position in it."""

    created: int = 0
    existing: int = 0
    faults: dict[int, Fault] = field(default_factory=dict)


class Target(Protocol):
    """Receives registrations: the relay, or the check of a dry run."""

    def register(self, bodies: Sequence[Body]) -> Result:
        """Registers a batch. Raises RelayError if the import cannot continue."""
        ...


class Relay:
    """The relay. Waits out temporary errors: a restart, a full disk, too many requests."""

    def __init__(self, api: Api, sleep: Callable[[float], None] = time.sleep) -> None:
        self._api = api
        self._sleep = sleep
        self._is_reached = False

    def register(self, bodies: Sequence[Body]) -> Result:
        """Raises ApiError for a permanent error, and any error that lasts longer than PATIENCE_SECONDS."""
        try:
            return _result(self._send(bodies), self._api.url)
        except ApiError as error:
            if error.status not in CAUSED_BY_AN_ENTRY:
                raise
            if len(bodies) == 1:
                return Result(faults={0: Fault(code=error.problem or error.code, detail=str(error))})
        middle = len(bodies) // 2
        first, second = self.register(bodies[:middle]), self.register(bodies[middle:])
        return Result(
            created=first.created + second.created,
            existing=first.existing + second.existing,
            faults={**first.faults, **{middle + index: fault for index, fault in second.faults.items()}},
        )

    def _send(self, bodies: Sequence[Body]) -> Any:
        pause, waited = FIRST_PAUSE_SECONDS, 0.0
        while True:
            asked = 0.0
            try:
                answer = self._api.send("POST", PATH, body={"jobs": list(bodies)}, timeout=ANSWER_SECONDS)
            except Unreachable as error:
                if not self._is_reached:
                    raise
                failed: RelayError = error
            except ApiError as error:
                self._is_reached = True
                if error.status < 500 and error.status != 429:
                    raise
                failed, asked = error, parse_retry_after(error.retry_after, now=time.time()) or 0.0
            else:
                self._is_reached = True
                return answer.document
            seconds = max(pause, asked)
            if waited + seconds > PATIENCE_SECONDS:
                raise failed
            note(f"relay: {failed}; trying again in {seconds:g} s")
            self._sleep(seconds)
            waited, pause = waited + seconds, min(pause * 2, LAST_PAUSE_SECONDS)


def _result(document: Any, url: str) -> Result:
    try:
        faults = {one["index"]: Fault(code=str(one["code"]), detail=str(one["detail"])) for one in document["rejected"]}
        return Result(created=int(document["created"]), existing=int(document["existing"]), faults=faults)
    except (TypeError, KeyError, ValueError):
        raise not_a_relay(url) from None
