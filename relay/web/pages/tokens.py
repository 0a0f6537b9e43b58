"""API tokens at /ui/tokens: list, create, revoke. For admins."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from relay.clock import to_rfc3339
from relay.core.access.tokens import PUBLISH, SCOPES
from relay.errors import RequestError
from relay.web.page import PAGE_ITEMS, Content, Done, Export, Form, Page, PageRequest, equivalent
from relay.web.texts import english

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)

PREFIX = f"{PUBLISH}:"
DAYS = {"30": 30, "90": 90, "365": 365}
"""How long a new token lasts, by the value of the field."""
CUSTOM = "at"
MAX_DIGITS = 12
COLUMNS = {
    "id": "id",
    "name": "name",
    "scopes": "scopes",
    "source": "source",
    "account": "account",
    "networks": "networks",
    "requests per minute": "requests_per_minute",
    "expires at": "expires_at",
    "last used at": "last_used_at",
    "created at": "created_at",
    "created by": "created_by",
}
FIELDS = ("name", "scopes", "source", "account", "networks", "expires_at", "requests_per_minute")
text = english()


@page("GET /ui/tokens", live=True)
async def tokens(visit: PageRequest) -> Content:
    """The tokens of the database, newest first."""
    query = {"limit": PAGE_ITEMS, "cursor": visit.query.get("cursor")}
    found = await visit.api.get("/v1/tokens", query=query)
    return Content(
        template="tokens.html",
        title=text("tokens.title"),
        values={"tokens": found["items"], "next_cursor": found["next_cursor"], "now": to_rfc3339(visit.now)},
        equivalent=equivalent(["relay", "tokens", "list"], "GET /v1/tokens"),
        export=Export(path="/v1/tokens", columns=COLUMNS),
    )


@page("GET /ui/tokens/new")
async def new(visit: PageRequest) -> Content:
    """The form of a new token."""
    await visit.api.get("/v1/tokens", query={"limit": 1})  # refused to others than admins
    return _form(visit, visit.form, None)


@page("POST /ui/tokens/new")
async def create(visit: PageRequest) -> Content:
    """Creates a token, and shows its secret this once."""
    body = _body(visit.form, visit.now)
    try:
        made = await visit.api.post("/v1/tokens", body=body, key=visit.form.key)
    except RequestError as error:
        if error.status == 403:
            raise
        return _form(visit, visit.form, error)
    return Content(
        template="token_made.html",
        title=text("tokens.made"),
        values={"token": made},
        equivalent=equivalent(["relay", "tokens", "list"], "GET /v1/tokens/{}", made["id"]),
    )


@page("POST /ui/tokens/{id}/revoke")
async def revoke(visit: PageRequest) -> Done:
    """Revokes a token."""
    await visit.api.delete("/v1/tokens/{}", visit.id())
    return Done(key="token_revoked", to="/ui/tokens")


def _body(form: Form, now: float) -> dict[str, Any]:
    prefixes = [f"{PREFIX}{one}" for one in form.get("prefix").split()]
    source, _, account = form.get("account").rpartition("/")
    quota: str | int = form.get("requests_per_minute")
    if isinstance(quota, str) and quota.isascii() and quota.isdigit() and len(quota) < MAX_DIGITS:
        quota = int(quota)
    body = {
        "name": form.get("name"),
        "scopes": [*form.all("scopes"), *prefixes],
        "source": source or None,
        "account": account or None,
        "networks": form.get("networks").replace(",", " ").split() or None,
        "expires_at": _expiry(form, now),
        "requests_per_minute": None if quota == "" else quota,
    }
    return {name: value for name, value in body.items() if value is not None}


def _expiry(form: Form, now: float) -> str | None:
    """The time that was typed, or else the end of the days that were chosen."""
    typed, lasts = form.get("expires_at"), form.get("lasts")
    if typed or lasts == CUSTOM:
        return typed
    return to_rfc3339(now + DAYS[lasts] * 86_400) if lasts in DAYS else None


def _form(visit: PageRequest, typed: Form, error: RequestError | None) -> Content:
    days = [(value, text("tokens.days", n=number)) for value, number in DAYS.items()]
    accounts = [f"{source}/{name}" for source, names in visit.context.settings.accounts.items() for name in names]
    return Content(
        template="token_form.html",
        title=text("tokens.new"),
        status=200 if error is None else error.status,
        values={
            "typed": typed,
            "chosen": frozenset(typed.all("scopes")),
            "scopes": SCOPES,
            "accounts": accounts,
            "lasts": [("", text("tokens.never")), *days, (CUSTOM, text("tokens.at"))],
            "error": error,
            "errors": {} if error is None else _errors(error),
        },
        equivalent=equivalent(
            ["relay", "tokens", "create", "NAME", "--scopes", "read"],
            "POST /v1/tokens",
            body='{"name": "NAME", "scopes": ["read"]}',
        ),
    )


def _errors(error: RequestError) -> Mapping[str, list[str]]:
    """The errors of each field; "" has those of none."""
    found: dict[str, list[str]] = {}
    for one in error.errors:
        name = one.pointer.lstrip("/").partition("/")[0]
        name = "account" if name == "source" else name
        found.setdefault(name if name in FIELDS else "", []).append(one.detail)
    return found or ({"name": [str(error)]} if error.status == 409 else {})
