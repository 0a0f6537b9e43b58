"""The catch hooks of Zapier, Make, n8n, Pipedream and IFTTT: one flat JSON object per event, whose fields people pick
from a list.

`docs/integrations/zapier-make-n8n.md` names the fields. They are there in every event, empty where nothing is known.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.retry import http_outcome
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Incidents, Subscription
from relay.errors import FieldError
from relay.redaction import host_of, split_url, url_without_path
from subscribers import base
from subscribers.common import templates
from subscribers.common.options import TemplateOptions
from subscribers.wording import link, sentence
from subscribers.wording.jobs import job_kind, metadata_of
from subscribers.wording.text import data_of, mapping

Scalar = str | int | float | bool

VALUE_CHARACTERS = 2000
NAME_CHARACTERS = 60
MAX_FIELDS = 150
MAX_DEPTH = 3
_EXACT = 2**53
"""Larger integers are sent as text: JavaScript would round them."""
_ATTRIBUTES = {
    "id": "id",
    "type": "type",
    "source": "source",
    "subject": "subject",
    "time": "time",
    "status": "status",
    "previous_status": "previousstatus",
    "result_status": "resultstatus",
    "channel": "channel",
    "action": "action",
    "account": "account",
    "group": "group",
}
"""Fields, and the attributes of the event that they show."""


class Flat(base.Single):
    """The fields of an event as one JSON object of texts, numbers and booleans. Signed, as a webhook is: most receivers
    ignore the headers, and those that run code can verify them."""

    name = "flat"
    options = TemplateOptions
    form = ", as one flat JSON object"
    signed = True
    rate_per_second: float | None = 10.0
    """The lowest rate limit of these services."""
    default_incidents: Incidents = "off"

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """All job events and no others."""
        return None

    def check(self, subscription: Subscription) -> None:
        """Refuses what a webhook refuses, and URLs of IFTTT that take no JSON."""
        errors = base.receiver_errors(subscription) + templates.template_errors(TemplateOptions.of(subscription))
        parts = split_url(subscription.sink)
        if parts is not None and host_of(subscription.sink) == "maker.ifttt.com" and "/json/" not in parts.path:
            detail = "this takes no JSON: use https://maker.ifttt.com/trigger/EVENT/json/with/key/KEY"
            errors.append(FieldError(pointer="/sink", code="sink_unsuitable", detail=detail))
        base.refuse(errors)

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """The fixed fields, then those of the metadata and, of an event that is about no job, of its data; or the
        rendered template. Raises NotRenderable."""
        body = templates.own_body(event, TemplateOptions.of(subscription), context)
        return OutboundRequest(
            url=subscription.sink,
            method=subscription.method,
            headers=(("Content-Type", "application/json"), *subscription.headers),
            body=dumps(fields(event, context)) if body is None else body,
        )

    def classify(self, response: Response, now: float) -> Outcome:
        """The rules of plain HTTP. 400 is retried, since Make answers it while its queue is full, and 404 too, since
        n8n answers it while a workflow is switched off."""
        return http_outcome(response, now)

    def redacted_url(self, url: str) -> str:
        """Without the path, which is the credential on every host: people run n8n themselves."""
        return url_without_path(url)


def fields(event: Event, context: base.RenderContext) -> dict[str, Scalar]:
    """The fields of an event."""
    document = event.document()
    data = data_of(document)
    job, hint, of_job = mapping(data.get("job")), mapping(data.get("hint")), job_kind(event) is not None
    error = mapping(job.get("error"))
    found: dict[str, Any] = {name: document.get(attribute) for name, attribute in _ATTRIBUTES.items()}
    found |= {
        "account": found["account"] or data.get("account"),
        "channel": found["channel"] or data.get("channel"),
        "group": found["group"] or data.get("group"),
        "sequence": event.sequence or 0,
        "job_id": event.subject if of_job else data.get("job"),
        "sentence": sentence(event, context),
        "link": link(event, context),
        "connect_account_id": data.get("connect_account_id"),
        "request_id": data.get("request_id"),
        "error_code": error.get("code") or data.get("code"),
        "error_message": error.get("message") or data.get("message"),
        **{f"hint_{name}": hint.get(name) for name in ("meaning", "fix", "who", "repeat")},
    }
    flat = {name: _scalar(value) for name, value in found.items()}
    _flatten(flat, "metadata", metadata_of(document))
    if event.published and not isinstance(document.get("data"), Mapping):
        flat["data"] = _scalar(document.get("data"))
    if not of_job:
        _flatten(flat, "data", {name: value for name, value in data.items() if name not in ("hint", "metadata")})
    return flat


def _flatten(flat: dict[str, Scalar], prefix: str, values: Mapping[str, Any], depth: int = 1) -> None:
    """Adds a field for each value; names within objects are joined with `_`."""
    for key, value in values.items():
        if len(flat) >= MAX_FIELDS:
            return
        name = f"{prefix}_{_name(key)}"
        if isinstance(value, Mapping) and depth < MAX_DEPTH:
            _flatten(flat, name, value, depth + 1)
        else:
            flat[_free(flat, name)] = _scalar(value)


def _name(key: str) -> str:
    return re.sub(r"\W+|_+", "_", key[:NAME_CHARACTERS]).strip("_") or "field"


def _free(flat: Mapping[str, Scalar], name: str) -> str:
    """The name, or the first of `name_2`, `name_3` … that is not taken."""
    number, free = 1, name
    while free in flat:
        number += 1
        free = f"{name}_{number}"
    return free


def _scalar(value: object) -> Scalar:
    """A value as a scalar: null is empty, a list of scalars their texts, anything else JSON."""
    if value is None:
        return ""
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -_EXACT <= value <= _EXACT else str(value)
    if isinstance(value, list) and all(one is None or isinstance(one, str | int | float) for one in value):
        value = ", ".join(str(_scalar(one)) for one in value)
    text = value if isinstance(value, str) else dumps(value).decode()
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"
