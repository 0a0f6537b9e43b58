"""Every kind by its name, and the kind that a sink's host suggests."""

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
    """Every kind there is, by name."""
    return _KINDS


def kind_named(name: str) -> Kind:
    """The kind of that name. Raises InvalidRequest, naming the nearest one, where there is none."""
    kind = _KINDS.get(name)
    if kind is not None:
        return kind
    near = difflib.get_close_matches(name.lower(), _KINDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_KINDS)}"
    detail = f"{name!r:.100} is no kind of subscription: {hint}"
    raise InvalidRequest(detail, errors=[FieldError(pointer="/config/kind", code="unknown_kind", detail=detail)])


def infer_kind(sink: str) -> str:
    """The kind that the sink's host is known for, else `webhook`."""
    return _HOSTS.get(host_of(sink), "webhook")
