"""`relay listen`: events as they happen, printed or forwarded to a local port. It needs no public URL."""

import http.client
import time
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import typer

from relay.cli.client import Api, Follower, ServerEvent, api, full_types
from relay.cli.events import show_event
from relay.cli.output import Json, note, print_json, say
from relay.core.jsontext import loads
from relay.errors import UsageError

FORWARD_SECONDS = 15.0


def listen(
    forward_to: Annotated[str | None, typer.Option(help="Local URL that gets each event, signed.")] = None,
    types: Annotated[str | None, typer.Option(help="Only these types, such as failed,overdue.")] = None,
    json: Json = False,
) -> None:
    """Print events as they happen, or forward them signed to a local port, until it is interrupted."""
    target = _target(forward_to)
    wanted = full_types(types)
    client = api()
    secret: str = client.get("/v1/signing-secret")["secret"]
    for event in Follower(client, lambda: _say_ready(client, secret, json)).events():
        if show_event(event, wanted, json=json) and target is not None:
            _report(event, target, secret, json)


def _say_ready(client: Api, secret: str, json: bool) -> None:
    if json:
        print_json({"ready": True, "url": client.url, "secret": secret})
    else:
        say(f"ready: listening to {client.url}, signing secret {secret}")


def _target(url: str | None) -> SplitResult | None:
    if url is None:
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    from relay.core.urls import is_loopback_host

    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("--forward-to is no URL: write it like http://127.0.0.1:3000/hook")
    if parts.scheme == "http" and not is_loopback_host(parts.hostname):
        raise UsageError(f"--forward-to {parts.hostname} is another machine: use https there, or a port of this one")
    return parts


def _report(event: ServerEvent, target: SplitResult, secret: str, json: bool) -> None:
    began = time.perf_counter()
    try:
        status, reason = _forward(event, target, secret), None
    except (OSError, http.client.HTTPException) as error:
        status, reason = None, getattr(error, "strerror", None) or str(error) or type(error).__name__
    spent_ms = (time.perf_counter() - began) * 1000
    where = target.netloc.rpartition("@")[2]
    text = f"  → {status} from {where} in {spent_ms:.0f} ms" if status else f"  → not forwarded to {where}: {reason}"
    note(text) if json else say(text)


def _forward(event: ServerEvent, target: SplitResult, secret: str) -> int:
    """Posts the event's very bytes, signed as the relay signs a delivery."""
    from relay.core.signing import signature_headers
    from relay.core.subscription import SigningSecret

    message_id = str(loads(event.data).get("id") or event.id)
    signed = signature_headers([SigningSecret(value=secret)], message_id=message_id, now=time.time(), body=event.data)
    made = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
    connection = made(target.hostname or "", target.port, timeout=FORWARD_SECONDS)
    try:
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        headers = {"Content-Type": "application/cloudevents+json", "User-Agent": "revor-relay-cli", **dict(signed)}
        connection.request("POST", path, body=event.data, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()
