"""`relay listen`: prints events as they happen, or forwards them to a local port. Needs no public URL.

With `--subscription` it is a program that pulls: it acknowledges what was accepted, so it misses nothing while it is
away.
"""

import http.client
import time
from collections.abc import Callable
from contextlib import closing
from typing import Annotated, Any
from urllib.parse import SplitResult

import typer

from relay.cli.client import Api, ApiError, Unreachable, api, connection_to, http_url, path_of, reason_of
from relay.cli.events.events import show_event
from relay.cli.events.stream import FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, ServerEvent, follow
from relay.cli.options import Json, Types, type_names
from relay.cli.output import note, print_result, say
from relay.cli.subscriptions.settings import filters_given
from relay.core.jsontext import dumps
from relay.errors import UsageError

MAX_ITEMS = 10
WAIT_SECONDS = 20.0
MARGIN_SECONDS = 30.0

Handle = Callable[[dict[str, Any]], bool]
"""Prints and forwards one item of an answer. Returns whether it was accepted."""


def pull(api: Api, id: str, on_ready: Callable[[], None], handle: Handle, handle_seconds: float) -> None:
    """Pulls until it is interrupted. `handle` takes up to `handle_seconds`. Raises ApiError if the relay refuses, and
    Unreachable if the first request fails."""
    pause, wait_seconds, reported = FIRST_PAUSE_SECONDS, 0.0, None
    unacknowledged: list[str] = []
    body = {"max": MAX_ITEMS, "lease_seconds": MAX_ITEMS * handle_seconds + MARGIN_SECONDS}
    while True:
        try:
            if unacknowledged:  # the relay was away when they were accepted
                api.post(path_of("subscriptions", id, "ack"), {"ids": unacknowledged})
                unacknowledged.clear()
            asked = {**body, "wait_seconds": wait_seconds}
            answer = api.post(path_of("subscriptions", id, "pull"), asked, timeout=WAIT_SECONDS + MARGIN_SECONDS)
            if not wait_seconds:
                on_ready()
            pause, wait_seconds = FIRST_PAUSE_SECONDS, WAIT_SECONDS
            if answer.get("reason") != reported:
                reported = answer.get("reason")
                note(f"relay: {id} is {reported or 'enabled'}" + (", so nothing is handed out" if reported else ""))
            _handle_all(api, id, answer["items"], handle, unacknowledged)
        except (Unreachable, ApiError) as error:
            if not wait_seconds or (isinstance(error, ApiError) and error.status < 500 and error.status != 429):
                raise
            note(f"relay: {error}; trying again in {pause:g} s")
            time.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)


def _handle_all(api: Api, id: str, items: list[dict[str, Any]], handle: Handle, unacknowledged: list[str]) -> None:
    """Handles each item. `unacknowledged` gets the one that was accepted and could not be acknowledged."""
    left = {item["delivery_id"]: item for item in items}
    try:
        while left:
            delivery_id, item = next(iter(left.items()))
            accepted = handle(item)
            if accepted:
                unacknowledged.append(left.pop(delivery_id)["delivery_id"])
            answer = api.post(path_of("subscriptions", id, "ack" if accepted else "nack"), {"ids": [delivery_id]})
            unacknowledged.clear()
            for gone in (delivery_id, *answer.get("returned", ())):
                left.pop(gone, None)
    except BaseException:
        if left:
            _give_back(api, id, list(left))
        raise


def _give_back(api: Api, id: str, ids: list[str]) -> None:
    try:
        api.post(path_of("subscriptions", id, "nack"), {"ids": ids, "untried": True})
    except (Unreachable, ApiError) as error:
        note(f"relay: {len(ids)} events come again when their lease ends: {error}")


FORWARD_TIMEOUT_SECONDS = 15.0


def listen(
    forward_to: Annotated[str | None, typer.Option(help="Local URL to send each event to, signed.")] = None,
    types: Types = None,
    filters: Annotated[
        str | None,
        typer.Option(
            metavar="FILE-or-JSON",
            help="Only events that pass these filters: JSON, or a file with it. - reads it from the input.",
        ),
    ] = None,
    subscription: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Pull from this subscription of protocol PULL, and acknowledge its events."),
    ] = None,
    json: Json = False,
) -> None:
    """Print events as they happen, until interrupted. With --forward-to, send them signed to a local port."""
    target = _target(forward_to)
    if subscription is not None:
        if types or filters:
            raise UsageError("--types and --filters are set on the subscription. Leave them out with --subscription")
        _pull(subscription, target, json)
        return
    wanted = type_names(types)
    passes = _passing(filters)
    client = api()
    secret: str = client.get("/v1/signing-secret")["secret"]

    def ready() -> None:
        shown = {"ready": True, "url": client.url, "secret": secret}
        print_result(shown, f"ready: listening to {client.url}, signing secret {secret}", json=json)

    for event in follow(client, ready):
        if passes(event.data) and show_event(event, wanted, json=json) and target is not None:
            _report(event, target, secret, json)


def _pull(id: str, target: SplitResult | None, json: bool) -> None:
    client = api()
    secret = _secret_if_allowed(client)

    def ready() -> None:
        signing = "its token may not read the signing secret" if secret is None else f"signing secret {secret}"
        shown = {"ready": True, "url": client.url, "subscription": id, "secret": secret}
        print_result(shown, f"ready: pulling {id} from {client.url}, {signing}", json=json)

    def handle(item: dict[str, Any]) -> bool:
        event = ServerEvent(id=item["event_id"], data=dumps(item["event"]))
        show_event(event, None, json=json)
        return target is None or _report(event, target, secret, json)

    pull(client, id, ready, handle, 0.0 if target is None else FORWARD_TIMEOUT_SECONDS)


def _secret_if_allowed(client: Api) -> str | None:
    """The relay's signing secret; None if the token may only pull."""
    try:
        secret: str = client.get("/v1/signing-secret")["secret"]
    except ApiError as error:
        if error.status == 403:
            return None
        raise
    return secret


def _passing(text: str | None) -> Callable[[bytes], bool]:
    """A function that says True if an event passes the filters of --filters. Raises UsageError."""
    documents = filters_given(text)
    if documents is None:
        return lambda body: True
    from relay.core.subscriptions.comparisons import EventView
    from relay.core.subscriptions.filters import FiltersRefused, parse_filters

    try:
        filters = parse_filters(documents, "--filters")
    except FiltersRefused as refused:
        raise UsageError(str(refused)) from None
    return lambda body: filters.passes(EventView(body))


def _target(url: str | None) -> SplitResult | None:
    if url is None:
        return None
    from relay.core.access.netguard import is_loopback_host

    parts = http_url(url if "://" in url else f"http://{url}")
    if parts is None:
        raise UsageError("--forward-to is not a URL. Write it like http://127.0.0.1:3000/hook")
    if parts.scheme == "http" and not is_loopback_host(parts.hostname or ""):
        raise UsageError(f"--forward-to {parts.hostname} is another machine. Use https, or a port on this machine")
    return parts


def _report(event: ServerEvent, target: SplitResult, secret: str | None, json: bool) -> bool:
    """Forwards an event, and says what came of it. Returns whether it was accepted."""
    where = target.netloc.rpartition("@")[2]
    began = time.perf_counter()
    try:
        status = _forward(event, target, secret)
        accepted = 200 <= status < 300
        text = f"  → {status} from {where} in {(time.perf_counter() - began) * 1000:.0f} ms"
    except (OSError, http.client.HTTPException) as error:
        text, accepted = f"  → not forwarded to {where}: {reason_of(error)}", False
    note(text) if json else say(text)
    return accepted


def _forward(event: ServerEvent, target: SplitResult, secret: str | None) -> int:
    """Posts the event unchanged, signed as the relay signs a delivery if there is a secret. Returns the status code."""
    from relay.core.subscriptions.signing import signature_headers
    from relay.core.subscriptions.subscription import SigningSecret

    secrets = [] if secret is None else [SigningSecret(value=secret)]
    signed = signature_headers(secrets, message_id=event.id, now=time.time(), body=event.data)
    with closing(connection_to(target, FORWARD_TIMEOUT_SECONDS)) as connection:
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        headers = {"Content-Type": "application/cloudevents+json", "User-Agent": "revor-relay-cli", **dict(signed)}
        connection.request("POST", path, body=event.data, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status
