"""`relay tokens`: adds, lists and removes API tokens.

Through the relay where RELAY_URL names another machine, a node holds the SQLite file or there is none, else directly in
the database: with PostgreSQL the first token can be made before the first start.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from relay.cli.client import Api, Items, api, not_a_relay, path_of
from relay.cli.node.direct import COMMAND_LINE, recorded, require_database, through_or_directly
from relay.cli.node.serve import ConfigFile
from relay.cli.options import Json, Limit, given, one_of, split_names
from relay.cli.output import note, print_json, print_list, print_result, say
from relay.errors import InvalidRequest, UsageError

if TYPE_CHECKING:
    from relay.config.settings import Settings
    from relay.store.access.tokens import TokenStore

Tokens = tuple["TokenStore", "Settings"]
"""The tokens of a database, and the settings that name it."""

app = typer.Typer(help="Add, list and remove API tokens.", no_args_is_help=True)

COLUMNS = ("id", "name", "scopes", "account", "expires_at", "last_used_at")


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the token is called in lists and logs.")],
    scopes: Annotated[
        str,
        typer.Option(
            help="Some of read, jobs:write, subscriptions:write, deliveries:write, events:write (or "
            "events:write:com.acme. for types that begin so), metrics, proxy, admin."
        ),
    ],
    expires: Annotated[str | None, typer.Option(help="When it ends: a duration (90d) or a time.")] = None,
    account: Annotated[
        str | None, typer.Option(metavar="[SOURCE/]ACCOUNT", help="The only account that it reaches. Default: all.")
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK", help="Where its callers may come from. May be repeated. Default: anywhere."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Requests a minute. Default: no limit.")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Add a token. It is printed this once; the database keeps only a digest of it."""
    from relay.core.access.tokens import SCOPES, is_scope

    named = split_names(scopes, "--scopes", "read,jobs:write") or []
    source, _, of_source = (account or "").rpartition("/")
    body = given(
        name=name,
        scopes=[scope if is_scope(scope) else one_of(scope, SCOPES, "scope") for scope in named],
        expires_at=_expiry(expires),
        source=source or None,
        account=of_source or None,
        networks=network,
        requests_per_minute=requests_per_minute,
    )
    made = _done(config, lambda relay: relay.post("/v1/tokens", body), partial(_create, body))
    if json:
        print_json(made)
        return
    note(f"{made['id']} is the token {made['name']} ({', '.join(made['scopes'])}). It is shown only now:")
    say(made["token"])


@app.command("list")
def list_tokens(limit: Limit = 50, config: ConfigFile = None, json: Json = False) -> None:
    """List the tokens of the database, newest first. Those of the settings are not listed."""
    found = _done(config, lambda relay: relay.items("/v1/tokens", {}, limit), partial(_list, limit))
    print_list(found, COLUMNS, _row, empty="no tokens: `relay tokens add` makes one", json=json, table="tokens list")


@app.command()
def remove(
    token: Annotated[str, typer.Argument(metavar="ID|NAME", help="The token's id (tok_…) or name.")],
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Remove a token. Every node refuses it within a second, and ends its open streams."""

    def through(relay: Api) -> Any:
        return relay.delete(path_of("tokens", _id_of(token, relay.items("/v1/tokens", {}, limit=100_000))))

    gone = _done(config, through, partial(_revoke, token))
    print_result(gone, f"{gone['id']} ({gone['name']}) is removed", json=json)


def _row(token: Mapping[str, Any]) -> list[Any]:
    shown = {**token, "scopes": ", ".join(token["scopes"]), "expires_at": token["expires_at"] or "never"}
    return [shown[name] for name in COLUMNS]


def _expiry(text: str | None) -> str | None:
    from relay.clock import from_rfc3339, to_rfc3339
    from relay.core.values import duration_seconds

    if text is None:
        return None
    try:
        return to_rfc3339(time.time() + duration_seconds(text))
    except (ValueError, OverflowError):
        pass
    try:
        from_rfc3339(text)
    except ValueError:
        example = "a duration such as 90d, or an ISO 8601 time such as 2027-05-20T10:00:00Z"
        raise UsageError(f"invalid --expires {text!r:.40}. Use {example}") from None
    return text


def _id_of(token: str, tokens: list[Any]) -> str:
    """The id of the token with this name; else the text itself, which is then an id."""
    return next((str(one["id"]) for one in tokens if one["name"] == token), token)


def _done(config: Any, through: Callable[[Api], Any], directly: Callable[[Tokens], Awaitable[Any]]) -> Any:
    """The result of `through` a relay, or of `directly` on the database."""
    try:
        return through_or_directly(config, through, directly, opening=_tokens_of, local_first=True)
    except InvalidRequest as error:
        raise UsageError(str(error)) from None


@asynccontextmanager
async def _tokens_of(settings: "Settings") -> AsyncIterator[Tokens]:
    from relay.store.store import open_tokens

    require_database(settings)
    async with open_tokens(settings.database.url) as tokens:
        yield tokens, settings


async def _create(body: dict[str, Any], opened: Tokens) -> Any:
    from relay.api.access.tokens import token_of, token_view
    from relay.ids import new_id, new_token

    now, secret, (tokens, settings) = time.time(), new_token(), opened
    token = token_of(
        body,
        secret,
        id=new_id("tok", now),
        now=now,
        created_by=COMMAND_LINE,
        accounts={name: tuple(source.accounts) for name, source in settings.sources.items()},
        taken=frozenset(one.name for one in settings.auth.tokens),
    )
    async with recorded(tokens.database, settings, "tokens.create", token.id) as notes:
        notes |= {"name": token.name, "scopes": sorted(token.scopes)}
        await tokens.create(token, now)
    return {**token_view(token), "token": secret}


async def _list(limit: int, opened: Tokens) -> Any:
    from relay.api.access.tokens import token_view

    page = await opened[0].page(limit=limit)
    return Items([token_view(token) for token in page.items], limit, more=page.next_cursor is not None)


async def _revoke(token: str, opened: Tokens) -> Any:
    from relay.api.access.tokens import token_view

    tokens, settings = opened
    found = [token_view(one) for one in (await tokens.all())[1]]
    id = _id_of(token, found)
    async with recorded(tokens.database, settings, "tokens.revoke", id):
        return token_view(await tokens.revoke(id))


HERE = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)


def ui(
    open: Annotated[bool, typer.Option("--open", help="Open it in the browser of this machine.")] = False,
    json: Json = False,
) -> None:
    """Print a link to the dashboard. It signs a browser in as your token, once, within two minutes."""
    relay = api()
    link = relay.post("/v1/sessions")
    if not isinstance(link, dict) or not str(link.get("url")).startswith(("http://", "https://")):
        raise not_a_relay(relay.url)  # a browser would also open a file
    link["url"] = reachable(link["url"], relay)
    if json:
        print_json(link)
    else:
        if link.get("expires_at") is not None:
            note(f"It works once, until {link['expires_at']}. Do not share it: it signs in as your token.")
        say(link["url"])
    if open:
        import webbrowser

        if not webbrowser.open(link["url"]):
            note("No browser was found on this machine. Open the link in one.")


def reachable(url: str, relay: Api) -> str:
    """The link at the address that this command has reached the relay at, if the relay does not know its own:
    `server.public_url` is not set, so the link names the address that the relay listens on."""
    from relay.core.access.netguard import is_loopback_host

    parts = urlsplit(url)
    host = parts.hostname or ""
    if not is_loopback_host(host) and host not in HERE:
        return url
    return relay.url + parts.path + (f"?{parts.query}" if parts.query else "")
