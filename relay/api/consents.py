"""`/.well-known/webhook-consent`: where a sink consents later, by the URL in `WebHook-Request-Callback`.

Open to everyone, as the specification wants it: the key in the path is encrypted, serves this purpose only, and was
sent to the sink alone. The answer is the same for every key.
"""

from functools import partial
from typing import Any, Literal

import structlog
from starlette.responses import Response
from typing_extensions import TypedDict

from relay.api.auth import client_of
from relay.api.operations import PUBLIC, Answer, Call, Operation
from relay.api.problems import invalid_parameter
from relay.api.resource import json_response
from relay.core.handshake import ALLOWED_RATE, Refusal, read_rate

log = structlog.get_logger("relay.api")


class ConsentNoted(TypedDict):
    """The request has arrived. It does not say whether its key is valid."""

    status: Literal["received"]


OPERATIONS: list[Operation] = []
operation = partial(
    Operation,
    into=OPERATIONS,
    tag="Consents",
    scopes=PUBLIC,
    answers={202: Answer("Received. The answer is the same for every key.", ConsentNoted)},
    request_headers={ALLOWED_RATE: "Permitted requests per minute, or `*`."},
)


@operation("GET /.well-known/webhook-consent/{key}")
async def get_consent(call: Call) -> Response:
    """Consent to events, in a browser.

    HEAD does nothing.
    """
    return await _consent(call)


@operation("POST /.well-known/webhook-consent/{key}")
async def post_consent(call: Call) -> Response:
    """Consent to events.

    A body is ignored.
    """
    return await _consent(call)


async def _consent(call: Call) -> Response:
    given = call.request.headers.getlist(ALLOWED_RATE)
    rate = read_rate(tuple(dict.fromkeys(value.strip() for value in given)))
    if isinstance(rate, Refusal):
        detail = f"{ALLOWED_RATE}: a number of requests per minute or * is expected"
        raise invalid_parameter(ALLOWED_RATE, detail, code="invalid_parameter")
    if call.request.method != "HEAD":
        key, now = call.request.path_params["key"], call.ports.clock()
        granted = await call.ports.store.handshakes.grant(key, now, rate.rate_per_minute, "the sink has consented")
        if granted is not None:
            log.info("handshake", subscription=granted, reason="the sink has consented by a call")
            call.ports.dispatcher.wake()
            address = client_of(call.request.scope)
            await call.ports.audit.record("subscriptions.consent", actor="sink", target=granted, address=address)
    noted: ConsentNoted = {"status": "received"}
    return json_response(noted, 202)


EXAMPLES: dict[str, Any] = {"ConsentNoted": {"status": "received"}}
