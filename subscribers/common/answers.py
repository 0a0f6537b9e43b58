"""The answers of vendors' APIs: their JSON, their codes, and outcomes that several kinds give them. An answer is as
untrusted as any text of a stranger: its sentences may quote what was sent, so only codes are kept."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from relay.core import jsontext
from relay.core.deliveries.delivery import Outcome

UPPER_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,59}")
_CODE = re.compile(r"[A-Za-z0-9_]{1,60}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer. `outcome`: `delivered` if the request was carried out, else the meaning of the refusal."""

    outcome: Outcome

    @classmethod
    def of(cls, verdict: Literal["delivered", "retry", "dead", "disable"], reason: str, **of_kind: Any) -> Self:
        """An answer with a plain outcome."""
        return cls(outcome=Outcome(verdict=verdict, reason=reason), **of_kind)

    @property
    def ok(self) -> bool:
        """True if the request was carried out."""
        return self.outcome.verdict == "delivered"


def read_json(body: bytes) -> Any:
    """The JSON in an answer; None if it is none, or was cut."""
    try:
        return jsontext.loads(body)
    except (ValueError, RecursionError):
        return None


def read_object(body: bytes) -> Mapping[str, Any] | None:
    """The JSON object in an answer; None if it is none, or was cut."""
    value = read_json(body)
    return value if isinstance(value, dict) else None


def code_in(document: object, name: str = "code", form: re.Pattern[str] = _CODE) -> str:
    """A vendor's code for a refusal; empty without one."""
    value = document.get(name) if isinstance(document, Mapping) else None
    return value if isinstance(value, str) and form.fullmatch(value) else ""


def reason(status: int | None, code: str = "") -> str:
    """The reason of an outcome: `http_400: invalid_blocks`."""
    return f"http_{status}: {code}" if code else f"http_{status}"


def not_from(whose: str, status: int) -> Outcome:
    """The outcome of a 2xx that came from something else, such as a proxy or a login page."""
    return Outcome(verdict="retry", reason=f"http_{status}, but the body is not {whose}")


def refusal(status: int | None, code: str = "") -> Outcome | None:
    """The outcome of a refusal by a chat service; None for an answer to which the rules of HTTP apply.

    400 and 413: it will never accept this message. 401, 403, 404 and 410: the webhook is gone, or was switched off.

    code  the service's own code for it
    """
    if status in (400, 413):
        return Outcome(verdict="dead", reason=reason(status, code))
    if status in (401, 403, 404, 410):
        return Outcome(verdict="disable", reason=reason(status, code))
    return None
