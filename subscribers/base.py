"""What every kind of sink provides, and what several of them share.

A kind is pure: it gets an event, a subscription and a Context that was fetched before, and gives back a request; it
gets a response and gives back a verdict. It never opens a connection, reads a clock or asks the database, so that a
retry renders the same bytes and a test needs nothing but values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.events import Event
from relay.core.netguard import problem_of_header
from relay.core.subscription import Subscription
from relay.errors import FieldError, InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What rendering may use beside the event and the subscription.

    account_names  what people call an account, by its name in the settings
    public_url     where the relay can be reached from outside, without a slash at the end; None = unknown
    """

    account_names: Mapping[str, str] = field(default_factory=dict)
    public_url: str | None = None


class Kind(Protocol):
    """One kind of sink."""

    @property
    def name(self) -> str:
        """What `config.kind` calls it."""
        ...

    @property
    def signed(self) -> bool:
        """Whether the dispatcher adds the Standard Webhooks headers, made over the rendered body."""
        ...

    @property
    def rate_per_second(self) -> float | None:
        """The rate that one such sink bears where the subscription names none; None = no limit."""
        ...

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """The types of a subscription that names none. None = every job event and none about the relay.

        `type_prefixes` are those of the configured sources.
        """
        ...

    def check(self, subscription: Subscription) -> None:
        """Raises InvalidRequest, with a pointer to each field, for what this kind can not take."""
        ...

    def render(self, event: Event, subscription: Subscription, context: Context) -> OutboundRequest:
        """The request that tells the sink of this event, but for the signature. The same values give the same bytes."""
        ...

    def classify(self, response: Response, now: float) -> Outcome:
        """What a response means here. It has an answer to every status code and error."""
        ...

    def redacted_url(self, url: str) -> str:
        """The sink's URL as logs, attempts and pages may show it."""
        ...


def header_errors(headers: Sequence[tuple[str, str]]) -> list[FieldError]:
    """An error for each custom header that may not be sent."""
    errors = []
    for name, value in headers:
        problem = problem_of_header(name, value)
        if problem is not None:
            pointer = "/protocolsettings/headers/" + name.replace("~", "~0").replace("/", "~1")
            errors.append(FieldError(pointer=pointer, code=problem.code, detail=problem.detail))
    return errors


def option_errors(subscription: Subscription, known: Sequence[str] = ()) -> list[FieldError]:
    """An error for each option in `config` that this kind does not know."""
    return [
        FieldError(pointer=f"/config/{name}", code="unknown_option", detail=f"kind {subscription.kind} has no {name}")
        for name in sorted(subscription.options)
        if name not in known
    ]


def refuse(errors: Sequence[FieldError]) -> None:
    """Raises InvalidRequest with these errors, if there are any."""
    if errors:
        raise InvalidRequest("; ".join(f"{error.pointer}: {error.detail}" for error in errors), errors=errors)
