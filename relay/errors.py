"""Every error that the relay raises on purpose, as one tree.

RelayError
├── SettingsError          the settings are wrong; the command line ends with exit code 2
├── UsageError             a command was given something it can not work with; exit code 2
├── RequestError           a request to our HTTP API can not be answered as asked
│   ├── InvalidRequest     400, 415 or 422: the body, a parameter or a header is wrong
│   │   └── SinkRefused    422: the egress guard forbids this sink
│   ├── Unauthorized       401
│   ├── Forbidden          403
│   ├── NotFound           404
│   ├── Conflict           409
│   ├── TooLarge           413
│   ├── TooMany            429
│   └── Unavailable        503: the database can not be read or written just now
├── PassageError           a caller's own request could not be passed on to the upstream
│   ├── NotSent            nothing of it went out
│   └── NoAnswer           it went out, and no whole answer came: nobody knows what became of it
└── StoreError             the database can not do what we need
    ├── DatabaseHeld       another process holds this SQLite database
    ├── SchemaTooNew       the database was migrated by a newer program
    ├── SchemaTooOld       the database has to be migrated first
    └── StaleSequence      another write advanced or polled this job: load it again
"""

from collections.abc import Sequence
from dataclasses import dataclass


class RelayError(Exception):
    """The base of all: `str(error)` is one line for a person, `code` is for programs and never changes."""

    code = "error"
    exit_code = 1

    def __init__(self, problem: str) -> None:
        # What somebody wrote stands in it: a line end or half a character there must not get any further.
        super().__init__(problem if problem.isprintable() else "".join(c if c.isprintable() else " " for c in problem))


class SettingsError(RelayError):
    """The settings are wrong."""

    code = "settings_invalid"
    exit_code = 2


class UsageError(RelayError):
    """The command was given something it can not work with."""

    code = "usage"
    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One thing wrong with a request: `pointer` is a JSON Pointer (RFC 6901) into the body, or a parameter's name."""

    pointer: str
    code: str
    detail: str


class RequestError(RelayError):
    """A request that can not be answered as asked; it becomes an RFC 9457 problem with `status` and `code`."""

    status = 400
    title = "Bad request"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        errors: Sequence[FieldError] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status
        self.errors = tuple(errors)
        self.headers = headers or {}


class InvalidRequest(RequestError):
    """The request is understood but wrong (422), or not JSON (400), or not of our media type (415)."""

    code = "invalid_request"
    status = 422
    title = "Invalid request"


class SinkRefused(InvalidRequest):
    """The egress guard forbids this sink; the message names the rule and the setting that would allow it."""

    code = "sink_refused"
    title = "Sink refused"


class Unauthorized(RequestError):
    """No valid token came with the request."""

    code = "unauthorized"
    status = 401
    title = "Unauthorized"


class Forbidden(RequestError):
    """The token is valid, but its scopes do not reach this far."""

    code = "forbidden"
    status = 403
    title = "Forbidden"


class NotFound(RequestError):
    """There is no such thing."""

    code = "not_found"
    status = 404
    title = "Not found"


class Conflict(RequestError):
    """The thing is in a state that forbids this."""

    code = "conflict"
    status = 409
    title = "Conflict"


class TooLarge(RequestError):
    """The body is larger than we take."""

    code = "too_large"
    status = 413
    title = "Content too large"


class TooMany(RequestError):
    """Too many requests, or too many open streams."""

    code = "too_many_requests"
    status = 429
    title = "Too many requests"


class Unavailable(RequestError):
    """The database can not be read or written just now."""

    code = "store"
    status = 503
    title = "Database unavailable"


class PassageError(RelayError):
    """A caller's own request could not be passed on to the upstream."""

    code = "upstream_no_answer"


class NotSent(PassageError):
    """Nothing of the request went out."""

    code = "upstream_unreachable"


class NoAnswer(PassageError):
    """The request went out, and no whole answer came: nobody knows what became of it."""

    code = "outcome_unknown"


class StoreError(RelayError):
    """The database can not do what we need."""

    code = "store"
    exit_code = 2


class ValueRefused(StoreError):
    """The database can not hold a value, however often it is asked."""


class DatabaseHeld(StoreError):
    """Another process holds this SQLite database."""

    code = "database_held"
    exit_code = 2


class SchemaTooNew(StoreError):
    """The database was migrated by a newer program than this one."""

    code = "schema_too_new"
    exit_code = 2


class SchemaTooOld(StoreError):
    """The database has to be migrated first: `relay migrate`."""

    code = "schema_too_old"
    exit_code = 2


class StaleSequence(StoreError):
    """Somebody else advanced this job since it was loaded."""

    code = "stale_sequence"
