"""For admins: API tokens at /ui/tokens, the audit at /ui/audit, and the settings in force at /ui/settings."""

from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import orjson

from relay.api.catalogue import OPERATIONS
from relay.clock import to_rfc3339
from relay.core.access.tokens import PUBLISH, SCOPES
from relay.core.values import DEFAULT
from relay.errors import RequestError
from relay.web.api_client import together
from relay.web.audit_words import said, words_of
from relay.web.page import Content, Form, PageRequest, action, columns, equivalent, list_page, page
from relay.web.pages.deliveries import names_of, subscriptions
from relay.web.texts import english

PREFIX = f"{PUBLISH}:"
DAYS = {"30": 30, "90": 90, "365": 365}
"""Lifetimes of a new token in days, by the value of the field."""
CUSTOM = "at"
MAX_DIGITS = 12
TOKEN_COLUMNS = columns(
    "id name scopes source account networks requests_per_minute expires_at last_used_at created_at created_by"
)
FIELDS = ("name", "scopes", "source", "account", "networks", "expires_at", "requests_per_minute")
AUDIT_COLUMNS = columns(
    "at actor token=token_id action target address result status count request=request_id detail number"
)
ACTIONS = tuple(
    sorted({one.audited for one in OPERATIONS if isinstance(one.audited, str)} | {"settings.reload", "node.start"})
)
"""Actions to choose from."""
NAMED = 50
"""Maximum tokens whose names the audit shows."""
NEEDED = "(needed)"
"""The default of a setting that has none."""
text = english()


@page("GET /ui/tokens", live=True)
async def tokens(page_request: PageRequest) -> Content:
    """The tokens of the database, newest first."""
    made = await list_page(page_request, "tokens", "/v1/tokens", columns=TOKEN_COLUMNS)
    return made.plus(now=to_rfc3339(page_request.now))


@page("GET /ui/tokens/new")
async def new(page_request: PageRequest) -> Content:
    """The form of a new token."""
    await page_request.api.get("/v1/tokens", query={"limit": 1})  # refused to others than admins
    return _form(page_request, page_request.form, None)


@page("POST /ui/tokens/new")
async def create(page_request: PageRequest) -> Content:
    """Creates a token, and shows its secret this once."""
    body = _body(page_request.form, page_request.now)
    try:
        made = await page_request.api.post("/v1/tokens", body=body, key=page_request.form.key)
    except RequestError as error:
        if error.status == 403:
            raise
        return _form(page_request, page_request.form, error)
    return Content(
        template="token_made.html",
        title=text("tokens.made"),
        values={"token": made},
        equivalent=equivalent(["relay", "tokens", "list"], "GET /v1/tokens/{}", made["id"]),
    )


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


def _form(page_request: PageRequest, typed: Form, error: RequestError | None) -> Content:
    days = [(value, text("tokens.days", n=number)) for value, number in DAYS.items()]
    accounts = [
        f"{source}/{name}" for source, names in page_request.context.settings.accounts.items() for name in names
    ]
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
            ["relay", "tokens", "add", "NAME", "--scopes", "read"],
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


# --- the audit


@page("GET /ui/audit", live=True)
async def audit(page_request: PageRequest) -> Content:
    """Its entries, newest first: who did what, when and from where."""
    known, tokens = await together(
        subscriptions(page_request), page_request.api.allowed("/v1/tokens", query={"limit": NAMED})
    )
    names = {**names_of(known), **{one["id"]: one["name"] for one in (tokens or {"items": ()})["items"]}}
    chosen = page_request.query.get("action")
    choices = [(one, words_of(one)) for one in dict.fromkeys((*ACTIONS, *([chosen] if chosen else [])))]
    filters = ("actor", "action", "since", "until")
    made = await list_page(page_request, "audit", "/v1/audit", columns=AUDIT_COLUMNS, filters=filters)
    return made.plus(actions=sorted(choices, key=itemgetter(1)), chosen=chosen, said=partial(said, names=names))


@page("POST /ui/audit/verify")
async def verify(page_request: PageRequest) -> Content:
    """Verifies that no entry was changed, inserted or removed."""
    found = await page_request.api.get("/v1/audit/verify")
    return Content(
        template="audit_verified.html",
        title=text("audit.verified"),
        values={"result": found},
        equivalent=equivalent(["relay", "audit", "verify"], "GET /v1/audit/verify"),
    )


# --- the settings


@page("GET /ui/settings", live=True)
async def settings(page_request: PageRequest) -> Content:
    """Every setting in force, by section."""
    changed = page_request.query.get("changed") == "true"
    found = await page_request.api.get("/v1/settings")
    sections: dict[str, list[Mapping[str, Any]]] = {}
    for one in found["items"]:
        if not changed or one["place"] != DEFAULT:
            sections.setdefault(one["key"].partition(".")[0], []).append({**one, "shown": _shown(one)})
    return Content(
        template="settings.html",
        title=text("base.settings"),
        values={
            "sections": sections,
            "changed": changed,
            "total": len(found["items"]),
            "total_changed": sum(one["place"] != DEFAULT for one in found["items"]),
            "node_id": found["node_id"],
            "default": DEFAULT,
            "needed": NEEDED,
        },
        equivalent=equivalent(["relay", "settings", *(["--changed"] if changed else [])], "GET /v1/settings"),
    )


def _shown(one: Mapping[str, Any]) -> str:
    """The value for a person; of a secret only whether it is set."""
    if not one["set"]:
        return text("settings.not_set")
    if one["secret"] and one["value"] is None:
        return text("settings.set")
    value = _rounded(one["value"])
    if isinstance(value, list):
        return ", ".join(one if isinstance(one, str) else orjson.dumps(one).decode() for one in value)
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _rounded(value: Any) -> Any:
    """Whole numbers without a fraction, others without the digits that a computation leaves."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else round(value, 9)
    return value


action("POST /ui/tokens/{id}/revoke", "DELETE /v1/tokens/{}", done="token_revoked", to="/ui/tokens")
