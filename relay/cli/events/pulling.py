"""`relay listen --subscription`: pulls deliveries of a subscription, and acknowledges what was printed or forwarded.

Each delivery is acknowledged by itself, after it. One that was not accepted goes back, and with it the later ones of
its job or key. At Ctrl-C everything that was not acknowledged goes back untried, so no attempt is counted.
"""

import time
from collections.abc import Callable
from typing import Any

from relay.cli.client import Api, ApiError, Unreachable, path_of
from relay.cli.events.stream import FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS
from relay.cli.output import note

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
