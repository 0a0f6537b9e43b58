"""`relay ui`: a link to the dashboard that signs a browser in, once."""

from typing import Annotated
from urllib.parse import urlsplit

import typer

from relay.cli.client import Api, api, not_a_relay
from relay.cli.options import Json
from relay.cli.output import note, print_json, say

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
    if open and not _opened(link["url"]):
        note("No browser was found on this machine. Open the link in one.")


def reachable(url: str, relay: Api) -> str:
    """The link at the address that this command has reached the relay at, if the relay does not know its own:
    `server.public_url` is not set, so the link names the address that the relay listens on."""
    from relay.core.access.own_address import is_loopback_host

    parts = urlsplit(url)
    host = parts.hostname or ""
    if not is_loopback_host(host) and host not in HERE:
        return url
    return relay.url + parts.path + (f"?{parts.query}" if parts.query else "")


def _opened(url: str) -> bool:
    import webbrowser

    return webbrowser.open(url)
