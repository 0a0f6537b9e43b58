"""The key and the JSON body of a request, or the error answer that refuses it. Pure.

Any key that begins with `sk-revor-` is valid. `sk-revor-acme` and `sk-revor-acme-<anything>` are two keys of the
account `acme`. `sk-revor-readonly-acme` is a key of `acme` that cannot create jobs. `sk-revor-expired…` and
`sk-revor-revoked…` are refused as expired and revoked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

PREFIX = "sk-revor-"
MAX_KEY_LENGTH = 256


class Refused(Exception):
    """An error answer: HTTP status, Revor's code, a message, which defaults to the code, and Retry-After."""

    def __init__(
        self, status: int, code: str, message: str | None = None, *, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message or code)
        self.retry_after_seconds = retry_after_seconds
        self.status = status
        self.code = code
        self.message = message or code


def invalid(message: str) -> Refused:
    """The refusal of a request body."""
    return Refused(400, "invalid_request", message)


class Body(BaseModel):
    """A JSON body. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


Read = TypeVar("Read", bound=BaseModel)


def read(model: type[Read], body: object) -> Read:
    """The body as this model; null is a field that is left out. Raises Refused, with a message that names the first
    wrong field."""
    try:
        given = {name: one for name, one in body.items() if one is not None} if isinstance(body, dict) else body
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise invalid(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The key and account behind a request."""

    key: str
    account: str
    can_create: bool


def caller_of(headers: Mapping[str, str]) -> Caller:
    """The caller, by `Authorization: Bearer` or `x-api-key`. If both are given, Bearer wins.

    Header names are lower case. An Authorization header with another scheme is ignored. Raises Refused.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else ""
    key = key or headers.get("x-api-key", "").strip()
    if not key:
        raise Refused(401, "api_key_missing")
    parts = key.removeprefix(PREFIX).split("-")
    if not key.startswith(PREFIX) or not parts[0] or len(key) > MAX_KEY_LENGTH:
        raise Refused(401, "api_key_invalid")
    for word in ("expired", "revoked"):
        if parts[0].startswith(word):
            raise Refused(401, f"api_key_{word}")
    is_readonly = parts[0] == "readonly"
    account = parts[1] if is_readonly and len(parts) > 1 and parts[1] else parts[0]
    return Caller(key=key, account=account, can_create=not is_readonly)
