"""The relay's own exceptions, as one tree.

Below RelayError are SettingsError and UsageError of commands, RequestError of the HTTP API, PassageError of the drop-in
proxy, StoreError of the database, and NotRenderable and Unreadable of deliveries.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBLEM_TYPE_PREFIX = "urn:revor-relay:problem:"
"""Of the `type` of a problem (RFC 9457); the rest is its `code`."""


class RelayError(Exception):
    """Base class. `str(error)` is one line for a person; `code` is for programs and stable."""

    code = "error"
    exit_code = 1

    def __init__(self, problem: str) -> None:
        # The text may quote user input: line breaks and lone surrogates must not reach logs or terminals.
        super().__init__(_one_line(problem))


def refusal(error: OSError) -> str:
    """The reason of an OSError. Names the user without permission by its id: a container's user has no name."""
    reason = error.strerror or type(error).__name__
    return f"{reason} for user {os.geteuid()}" if isinstance(error, PermissionError) else reason


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


class SettingsError(RelayError):
    """The settings are wrong. `lines`: one for each fault."""

    code = "settings_invalid"
    exit_code = 2

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.lines = tuple(map(_one_line, faults))


class UsageError(RelayError):
    """A command got invalid arguments or input."""

    code = "usage"
    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One error in a request. `pointer`: a JSON Pointer (RFC 6901) into the body, or a parameter's or header's name."""

    pointer: str
    code: str
    detail: str


class RequestError(RelayError):
    """A failed request. It becomes an RFC 9457 problem with `status` and `code`."""

    exit_code = 2
    status = 400
    title = "Bad request"
    kept = True
    """True if a request with an Idempotency-Key holds its key after this answer."""

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
    """The request is invalid (422), not JSON (400), or of another media type (415)."""

    code = "invalid_request"
    status = 422
    title = "Invalid request"


class ExtraMissing(InvalidRequest):
    """This node lacks an extra that the request, or a delivery, needs. The message has the command that installs it."""


class SinkRefused(InvalidRequest):
    """The egress guard forbids this sink. The message names the rule, and the setting that would allow it."""

    code = "sink_refused"
    title = "Sink refused"


class Unauthorized(RequestError):
    """The request has no valid token."""

    code = "unauthorized"
    status = 401
    title = "Unauthorized"


class Forbidden(RequestError):
    """The token is valid, but lacks a scope."""

    code = "forbidden"
    status = 403
    title = "Forbidden"


class NotFound(RequestError):
    """The resource does not exist."""

    code = "not_found"
    status = 404
    title = "Not found"


class Conflict(RequestError):
    """The resource is in a state that forbids this."""

    code = "conflict"
    status = 409
    title = "Conflict"


class CheckFailed(RequestError):
    """A sink or its credential failed the check before a subscription is stored. Nothing was stored, and once the sink
    is set up the same request may succeed."""

    code = "sink_unreachable"
    status = 422
    title = "Check failed"
    kept = False


class Gone(RequestError):
    """A request is repeated with its Idempotency-Key, and what it made or changed was removed since."""

    code = "gone"
    status = 410
    title = "Gone"


class TooLarge(RequestError):
    """The body is too large."""

    code = "too_large"
    status = 413
    title = "Content too large"


class TooMany(RequestError):
    """Too many requests, or too many open streams."""

    exit_code = 1
    code = "too_many_requests"
    kept = False
    status = 429
    title = "Too many requests"


class Busy(RequestError):
    """The node has too much to do. Nothing was done, so the request can be sent again."""

    exit_code = 1
    code = "busy"
    status = 503
    title = "Busy"


class Unavailable(RequestError):
    """The database is unavailable."""

    exit_code = 1
    code = "store"
    status = 503
    title = "Database unavailable"


class NotRenderable(RelayError):
    """An event can never be rendered for a subscription, because of the subscription's own settings.

    A retry would fail in the same way, so the delivery is dead. `errors`: what is wrong with each field.
    """

    code = "not_renderable"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.pointer}: {error.detail}" for error in errors))
        self.errors = tuple(errors)


class Unreadable(RelayError):
    """This version cannot read a setting of a stored subscription, such as a template: the subscription is disabled,
    and its events wait until that is corrected. `errors`: what is wrong where, with pointers into the subscription."""

    code = "unreadable"

    def __init__(self, message: str, errors: Sequence[FieldError]) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class PassageError(RelayError):
    """A caller's request could not be forwarded to the upstream."""

    code = "upstream_no_answer"


class NotSent(PassageError):
    """Nothing of the request was sent."""

    code = "upstream_unreachable"


class NoAnswer(PassageError):
    """The request was sent, but no complete response arrived. Its outcome is unknown."""

    code = "outcome_unknown"


class StoreError(RelayError):
    """The database failed."""

    code = "store"
    exit_code = 2


class ValueRefused(StoreError):
    """The database cannot store a value. A retry will not help."""


class DecryptError(StoreError):
    """A secret in the database cannot be decrypted. `key`: the id of the missing key; None if the secret is damaged."""

    code = "decrypt_failed"

    def __init__(self, problem: str, key: str | None = None) -> None:
        super().__init__(problem)
        self.key = key


class DatabaseHeld(StoreError):
    """Another process uses this database."""

    code = "database_held"


class ServerTooOld(StoreError):
    """The PostgreSQL server is older than the oldest version that is supported."""

    code = "server_too_old"


class SchemaTooNew(StoreError):
    """The database was migrated by a newer program than this one."""

    code = "schema_too_new"


class SchemaTooOld(StoreError):
    """The database must be migrated first: `relay migrate`."""

    code = "schema_too_old"


class SchemaUnsupported(StoreError):
    """The database's schema is older than any that this program migrates, or that of another program."""

    code = "schema_unsupported"


class StaleSequence(StoreError):
    """Another write changed this job after it was loaded."""

    code = "stale_sequence"
