"""`/v1/tokens`: the API tokens of the database. Those of the settings are not listed."""

from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response

from relay.api.http.auth import ADMINS, DELIVERIES_WRITE, JOBS_WRITE, LOCAL, READ, SUBSCRIPTIONS_WRITE
from relay.api.http.fields import SOURCE, TOKEN_ID, Body, Moment, Nothing, checked
from relay.api.http.idempotency import STORED, Repeats, members
from relay.api.http.operations import LOCATION, NEXT, Answer, Call, Operation, json_response, page_response
from relay.api.http.params import PAGE
from relay.api.http.shown import Shown, Time, page_of
from relay.api.http.validation import account_errors, account_meant, invalid, validate
from relay.clock import from_rfc3339, to_rfc3339
from relay.core.access.client_address import network_of
from relay.core.access.sign_in import HOME, new_session
from relay.core.access.tokens import (
    MAX_SCOPE,
    MAX_SCOPES,
    NAME_FORM,
    NAME_PATTERN,
    SCOPE_FORM,
    SCOPE_PATTERN,
    AccessToken,
    in_order,
    is_scope,
    is_token_name,
)
from relay.core.jobs.job import DEFAULT_SOURCE
from relay.errors import Conflict, FieldError
from relay.ids import new_secret, new_token
from relay.store.access.tokens import name_taken, no_token

MAX_NETWORKS = 100
MAX_REQUESTS_PER_MINUTE = 1_000_000
RESERVED = (LOCAL, "relay")
"""Names that the audit uses for those without a token."""


ScopeName = Annotated[
    str,
    checked(is_scope, "unknown_value", f"{SCOPE_FORM} is expected"),
    Field(json_schema_extra={"pattern": f"^{SCOPE_PATTERN}$", "maxLength": MAX_SCOPE}),
]


def _network(value: str) -> None:
    try:
        network_of(value)
    except ValueError as error:
        raise ValueError(f"a network such as 10.0.0.0/8 or fd00::/8 is expected{error}") from None


class TokenCreate(Body):
    """A new API token."""

    read_only = frozenset({"id", "token", "created_at", "created_by", "last_used_at"})

    name: Annotated[str, checked(is_token_name, "invalid_name", f"{NAME_FORM} is expected")] = Field(
        description=f"What the token is called in lists, logs and the audit: {NAME_FORM}. No two tokens have the same.",
        json_schema_extra={"pattern": f"^{NAME_PATTERN}$"},
        examples=["crm"],
    )
    scopes: list[ScopeName] = Field(
        min_length=1,
        max_length=MAX_SCOPES,
        description="What it allows. `proxy`: the drop-in only; `deliveries:write`: pulling only; "
        "`events:write:com.acme.`: publishing events of types that begin so; `admin`: everything.",
        examples=[["read", "jobs:write"]],
    )
    expires_at: Moment | None = Field(default=None, description="When it ends. null: never.")
    source: str | None = Field(
        default=None, description=f"The source of `account`. Default: the only one, else `{DEFAULT_SOURCE}`."
    )
    account: str | None = Field(
        default=None,
        description="The only account whose jobs, events and subscriptions it reaches, and which it stands for in the "
        "drop-in. null: all of them.",
        examples=["default"],
    )
    networks: list[Annotated[str, checked(_network, "invalid_network")]] = Field(
        default_factory=list,
        max_length=MAX_NETWORKS,
        description="Where its callers may come from, such as `203.0.113.0/24`. Empty: anywhere.",
        examples=[["203.0.113.0/24"]],
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=MAX_REQUESTS_PER_MINUTE,
        description="How often it may be used. null: without a limit.",
        examples=[600],
    )


class Token(Shown):
    """An API token, without its secret."""

    id: str = Field(examples=[TOKEN_ID])
    name: str = Field(examples=["crm"])
    scopes: list[ScopeName] = Field(examples=[["read", "jobs:write"]])
    created_at: Time
    created_by: str = Field(description="The name of the token that created it, or `command line`.", examples=["ops"])
    expires_at: Time | None = Field(examples=["2027-05-20T10:00:00.000Z"])
    last_used_at: Time | None = Field(description="At most a minute old; null if it was never used.")
    source: str | None = Field(examples=[SOURCE])
    account: str | None = Field(examples=["default"])
    networks: list[str] = Field(examples=[["203.0.113.0/24"]])
    requests_per_minute: int | None = Field(examples=[600])


class NewToken(Token):
    """A new token with its secret, which is shown this once."""

    token: str = Field(examples=["rl_Zm9yLWRvY3VtZW50YXRpb24tb25seS0wMTIzNDU2Nzg5"])


TokenPage = page_of(Token, "tokens")


def token_of(
    document: object,
    secret: str,
    *,
    id: str,
    now: float,
    created_by: str,
    accounts: Mapping[str, tuple[str, ...]],
    taken: frozenset[str],
) -> AccessToken:
    """The token that a body describes. `taken`: the names of other tokens. Raises InvalidRequest, Conflict."""
    body = validate(TokenCreate, document)
    errors: list[FieldError] = []
    expires_at = None if body.expires_at is None else from_rfc3339(body.expires_at)
    if expires_at is not None and expires_at <= now:
        errors.append(FieldError(pointer="/expires_at", code="invalid_time", detail="the time is over already"))
    account = None
    if body.account is not None:
        account = (account_meant(accounts, body.source)[0], body.account)
        errors += account_errors(*account, accounts)
    elif body.source is not None:
        errors.append(FieldError(pointer="/source", code="invalid", detail="a source needs an account of it"))
    if errors:
        raise invalid(*errors)
    if body.name in taken or body.name in RESERVED:
        raise name_taken(body.name)
    return AccessToken(
        id=id,
        name=body.name,
        digest=sha256(secret.encode()).hexdigest(),
        scopes=frozenset(body.scopes),
        created_at=now,
        created_by=created_by,
        expires_at=expires_at,
        account=account,
        networks=tuple(dict.fromkeys(map(network_of, body.networks))),
        requests_per_minute=body.requests_per_minute,
    )


def token_view(token: AccessToken, used_at: float | None = None) -> dict[str, Any]:
    """A token. `used_at`: a use that is not stored yet."""
    source, account = token.account or (None, None)
    uses = [at for at in (token.last_used_at, used_at) if at is not None]
    return Token.of(
        token,
        scopes=in_order(token.scopes),
        last_used_at=max(uses, default=None),
        source=source,
        account=account,
        networks=[str(network) for network in token.networks],
    )


operation = partial(Operation, tag="Tokens", scopes=ADMINS)


async def _token_again(call: Call, kept: Mapping[str, Any]) -> dict[str, Any]:
    token = await call.dependencies.store.tokens.get(kept["id"])
    if token is None:
        raise no_token(kept["id"])
    return {**token_view(token), "token": kept["token"]}


@operation(
    "POST /v1/tokens",
    repeats=Repeats(members("id", "token"), _token_again),
    audited="tokens.create",
    body=TokenCreate,
    answers={201: Answer("The new token. `token` is only in this response.", NewToken, headers=LOCATION)},
    problems={409: "Another token has the name, or there are too many."},
)
async def create_token(call: Call) -> Response:
    """Create an API token.

    `token` is shown this once: only its digest is stored. Other nodes accept it within 1 s.
    """
    now, secret = call.dependencies.clock(), new_token()
    token = token_of(
        call.document,
        secret,
        id=call.new_id("tok", now),
        now=now,
        created_by=LOCAL if call.identity is None else call.identity.name,
        accounts=call.dependencies.settings.accounts,
        taken=call.dependencies.access.names,
    )
    call.note(name=token.name, scopes=sorted(token.scopes))
    await call.dependencies.store.tokens.create(token, now)
    await call.dependencies.node.tokens_changed()
    made = {**token_view(token), "token": secret}
    return json_response(made, 201, {"Location": f"/v1/tokens/{token.id}"})


@operation("GET /v1/tokens", query=PAGE, answers={200: Answer("A page.", TokenPage, headers=NEXT)})
async def list_tokens(call: Call) -> Response:
    """List the API tokens, newest first, without those of the settings."""
    page = await call.dependencies.store.tokens.page(**call.query)
    return page_response(call.request, [_shown(call, token) for token in page.items], page.next_cursor)


@operation("GET /v1/tokens/{id}", answers={200: Answer("The token.", Token)})
async def get_token(call: Call) -> Response:
    """Read an API token."""
    token = await call.dependencies.store.tokens.get(call.id)
    if token is None:
        raise no_token(call.id)
    return json_response(_shown(call, token))


@operation(
    "DELETE /v1/tokens/{id}", audited="tokens.revoke", answers={200: Answer("The token before it was revoked.", Token)}
)
async def revoke_token(call: Call) -> Response:
    """Revoke an API token.

    This node refuses it from now on, other nodes within 1 s. Its open streams and waits end.
    """
    token = await call.dependencies.store.tokens.revoke(call.id)
    call.note(name=token.name)
    shown = _shown(call, token)
    await call.dependencies.node.tokens_changed()
    return json_response(shown)


def _shown(call: Call, token: AccessToken) -> dict[str, Any]:
    return token_view(token, call.dependencies.access.used_at(token))


SIGNS_IN = frozenset({READ, JOBS_WRITE, SUBSCRIPTIONS_WRITE, DELIVERIES_WRITE})
"""Scopes of which a token needs one to sign in: with others there is nothing to see."""


class SignInLink(Shown):
    """A link that signs a browser in to the dashboard."""

    url: str = Field(
        description="Signs in as the token of this request, once. Any person who has it can use it.",
        examples=["https://relay.example/ui/login?link=Zm9yLWRvY3VtZW50YXRpb24tb25seS0wMTIzNDU2Nzg5MDE"],
    )
    expires_at: Time | None = Field(
        description="null: it needs no sign-in, and does not end.", examples=["2026-05-20T10:02:00.000Z"]
    )


@operation(
    "POST /v1/sessions",
    repeats=STORED,
    scopes=SIGNS_IN,
    audited="sessions.create",
    bound=True,
    body=Nothing,
    answers={201: Answer("The link. It is in this response only.", SignInLink)},
    problems={409: "The dashboard is off: `web.enabled` is false."},
)
async def create_session(call: Call) -> Response:
    """Create a link that signs a browser in to the dashboard.

    It works once, within two minutes, and signs in as the token of this request. The session ends with that token,
    and after twelve hours.
    """
    if not call.dependencies.settings.dashboard:
        raise Conflict("the dashboard is off: set web.enabled to true", code="dashboard_off")
    page, identity = call.context.base_url + HOME, call.identity
    url, expires_at = page, None
    if identity is not None and identity.digest is not None:  # on loopback with --dev there is no token, nor a need
        secret, now = new_secret(), call.dependencies.clock()
        session = new_session("link", secret, token_digest=identity.digest, name=identity.name, now=now)
        await call.dependencies.store.sessions.create(session)
        url, expires_at = f"{page}/login?link={secret}", to_rfc3339(session.expires_at)
    return json_response({"url": url, "expires_at": expires_at}, 201)
