"""`/v1/sessions`: one-time links that sign a browser in to the dashboard."""

from functools import partial

from pydantic import Field
from starlette.responses import Response

from relay.api.http.auth import DELIVERIES_WRITE, JOBS_WRITE, READ, SUBSCRIPTIONS_WRITE
from relay.api.http.fields import Nothing
from relay.api.http.idempotency import STORED
from relay.api.http.operations import Answer, Call, Operation, json_response
from relay.api.http.shown import Shown, Time
from relay.clock import to_rfc3339
from relay.core.access.sign_in import HOME, new_session
from relay.errors import Conflict
from relay.ids import new_secret

SIGNS_IN = frozenset({READ, JOBS_WRITE, SUBSCRIPTIONS_WRITE, DELIVERIES_WRITE})
"""Scopes of which a token needs one to sign in: with others there is nothing to see."""


class SignInLink(Shown):
    """Where a browser opens the dashboard."""

    url: str = Field(
        description="Signs in as the token of this request, once. Any person who has it can use it.",
        examples=["https://relay.example/ui/login?link=Zm9yLWRvY3VtZW50YXRpb24tb25seS0wMTIzNDU2Nzg5MDE"],
    )
    expires_at: Time | None = Field(
        description="null: it needs no sign-in, and does not end.", examples=["2026-05-20T10:02:00.000Z"]
    )


OPERATIONS: list[Operation] = []
operation = partial(Operation, into=OPERATIONS, tag="Tokens")


@operation(
    "POST /v1/sessions",
    repeats=STORED,
    scopes=SIGNS_IN,
    audited="sessions.create",
    bound=True,
    body=Nothing,
    body_optional=True,
    answers={201: Answer("The link. It is in this response only.", SignInLink)},
    problems={409: "The dashboard is off: `web.enabled` is false."},
)
async def create_session(call: Call) -> Response:
    """Create a link that signs a browser in to the dashboard.

    It works once, within two minutes, and signs in as the token of this request. The session ends with that token,
    and after twelve hours.
    """
    if not call.ports.settings.dashboard:
        raise Conflict("the dashboard is off: set web.enabled to true", code="dashboard_off")
    page, identity = call.context.base_url + HOME, call.identity
    url, expires_at = page, None
    if identity is not None and identity.digest is not None:  # on loopback with --dev there is no token, nor a need
        secret, now = new_secret(), call.ports.clock()
        session = new_session("link", secret, token_digest=identity.digest, name=identity.name, now=now)
        await call.ports.store.sessions.create(session)
        url, expires_at = f"{page}/login?link={secret}", to_rfc3339(session.expires_at)
    return json_response({"url": url, "expires_at": expires_at}, 201)
