"""All kinds of sinks by name, and the kind inferred from a sink's host."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from relay.errors import FieldError, InvalidRequest
from relay.redaction import host_of
from subscribers.base import Kind
from subscribers.slack import Slack
from subscribers.webhook import Webhook

_ALL: tuple[Kind, ...] = (Webhook(), Slack())
_KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _ALL})
_HOSTS = {"hooks.slack.com": "slack", "hooks.slack-gov.com": "slack"}


def kinds() -> Mapping[str, Kind]:
    """All kinds by name."""
    return _KINDS


def kind_named(name: str) -> Kind:
    """The kind of this name. Raises InvalidRequest, which suggests the nearest name, if there is none."""
    kind = _KINDS.get(name)
    if kind is not None:
        return kind
    near = difflib.get_close_matches(name.lower(), _KINDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_KINDS)}"
    detail = f"{name!r:.100} is not a kind of subscription: {hint}"
    raise InvalidRequest(detail, errors=[FieldError(pointer="/config/kind", code="unknown_kind", detail=detail)])


def infer_kind(sink: str) -> str:
    """The kind of a sink on a known host, else `webhook`."""
    return _HOSTS.get(host_of(sink), "webhook")
