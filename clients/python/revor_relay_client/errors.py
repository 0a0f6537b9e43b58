"""The errors. None contains the token or a secret."""

from collections.abc import Sequence
from typing import Literal

from revor_relay_client.models import Job, Mistake, Publishing

Reason = Literal[
    "missing_header",
    "malformed_timestamp",
    "no_v1_signature",
    "old_timestamp",
    "future_timestamp",
    "changed_body",
    "wrong_secret",
    "unfit_body",
]


class RelayError(Exception):
    """The relay refused a request, or did not answer properly.

    status      of the answer; None if there was none
    code        for programs, stable across versions: https://github.com/revor-relay/revor-relay, "Errors"
    detail      for people
    request_id  `X-Request-Id` of the answer, which the relay's log and audit name
    mistakes    of the body: pointer, code and detail of each
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        status: int | None = None,
        request_id: str = "",
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        super().__init__(detail)
        self.detail, self.code, self.status, self.request_id = detail, code, status, request_id
        self.mistakes = tuple(mistakes)

    def __str__(self) -> str:
        facts = [str(self.status or ""), self.code, self.request_id]
        return f"{' '.join(self.detail.split())} ({', '.join(filter(None, facts))})"


class Unreachable(RelayError):
    """No relay answered, or its answer broke off. Code `unreachable`."""


class UnfitAnswer(RelayError):
    """The answer is not a relay's: no JSON, other fields, too large. Code `unfit_answer`."""


class WaitTimeout(RelayError):
    """The time of a wait is up. Code `timeout`. `job`: its last known state, if a job was waited for."""

    def __init__(self, detail: str, job: Job | None = None) -> None:
        super().__init__(detail, code="timeout")
        self.job = job


class EventsRejected(RelayError):
    """The relay took some published events and not others. `result` says which. Code `rejected`."""

    def __init__(self, result: Publishing) -> None:
        first, count = result.rejected[0], len(result.rejected)
        detail = f"{count} events were not taken, {result.accepted} were. Event {first.index}: {first.detail}"
        super().__init__(detail[:2000], code="rejected")
        self.result = result


class VerificationError(Exception):
    """A request is not proven to come from the relay: answer 401. `reason` is for programs."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason


class TimestampError(VerificationError):
    """The signature is right, and its time is not: an old request sent again, or a wrong clock."""


class ChangedBody(VerificationError):
    """The body is proven to be another one than was signed: verify the raw bytes, before any JSON parser."""


class WrongSecret(VerificationError):
    """No signature matches: another subscription's secret, or the body was changed without a trace."""
