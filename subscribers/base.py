"""What every kind of sink provides, and what several of them share.

A kind is pure: it gets an event, a subscription and a Context that was fetched before, and gives back a request; it
gets a response and gives back a verdict. It never opens a connection, reads a clock or asks the database, so that a
retry renders the same bytes and a test needs nothing but values.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.events import Event
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


# Of these services the path is the credential: who knows it can post.
_SECRET_PATH_HOSTS = (
    *("hooks.slack.com", "hooks.slack-gov.com", "discord.com", "discordapp.com", "chat.googleapis.com"),
    *("hooks.zapier.com", "make.com", "integromat.com", "n8n.cloud", "pipedream.net", "ifttt.com"),
    *("webhook.office.com", "logic.azure.com", "api.powerplatform.com"),
)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,4096}")
_RESERVED_HEADERS = frozenset(
    {
        *("host", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade", "expect", "accept-encoding"),
    }
)
_RESERVED_HEADER_PREFIXES = ("content-", "webhook-", "ce-")


def split_url(url: str) -> SplitResult | None:
    """The parts of a URL; None where it can not be taken apart."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname else None


def host_of(url: str) -> str:
    """The host of a URL in lower case, without the dot that may end it; empty where there is none."""
    parts = split_url(url)
    return (parts.hostname or "").rstrip(".") if parts else ""


def url_without_path(url: str) -> str:
    """`https://hooks.example.com/…`: for sinks whose path is the credential."""
    parts = split_url(url)
    if parts is None:
        return "…"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}/…"


def redacted_url(url: str) -> str:
    """A URL without userinfo and without the values of its query; of known catch hooks without the path too."""
    parts = split_url(url)
    host = host_of(url)
    if parts is None or any(host == known or host.endswith(f".{known}") for known in _SECRET_PATH_HOSTS):
        return url_without_path(url)
    return url_without_path(url).removesuffix("/…") + parts.path + ("?…" if parts.query else "")


def header_errors(headers: Sequence[tuple[str, str]]) -> list[FieldError]:
    """What is wrong with a subscription's own headers: bad names and values, and those that the relay sets itself."""
    errors = []
    for name, value in headers:
        lower = name.lower()
        pointer = "/protocolsettings/headers/" + name.replace("~", "~0").replace("/", "~1")
        if not _TOKEN.fullmatch(name):
            errors.append(FieldError(pointer=pointer, code="invalid_header", detail="this is no name of a header"))
        elif lower in _RESERVED_HEADERS or lower.startswith(_RESERVED_HEADER_PREFIXES):
            errors.append(FieldError(pointer=pointer, code="reserved_header", detail=f"the relay sets {name} itself"))
        elif not _HEADER_VALUE.fullmatch(value):
            detail = f"the value of {name} has a line break or another character that a header can not have"
            errors.append(FieldError(pointer=pointer, code="invalid_header", detail=detail))
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
