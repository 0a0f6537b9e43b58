"""Deliveries that take several requests: what a kind of sink yields, and what it gives back. Pure.

A kind writes such a delivery as a generator: it yields a Step, is sent the Response to it, and returns what became of
the delivery. `relay/delivery/dialogues.py` sends the steps; a preview imagines the answers.
"""

import hashlib
from collections.abc import Generator, Mapping
from typing import Any

from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.values import value_class

MAX_STEPS = 20
"""Maximum number of requests of one delivery."""

SHARED = ""
"""Stands for the subscription where all subscriptions to a portal remember the same."""

Memory = Mapping[str, Any]
"""What a subscription remembers of a sink under one key, as JSON; empty if nothing."""


@value_class(frozen=True, slots=True, kw_only=True)
class Step:
    """One request.

    name      names it in the attempt and in a preview, without secrets and texts of others
    expected  the body of the answer that a preview imagines, with placeholders for what only the sink knows
    remember  stored before the request is sent: a crash after that cannot lose it
    share     the same for what all subscriptions to the portal remember of a person. Not sent unless it is stored
    private   the URL, the headers or the answer say something about a person: only the status is recorded
    """

    request: OutboundRequest
    name: str
    expected: bytes = b""
    remember: Memory | None = None
    share: Memory | None = None
    private: bool = False


@value_class(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a delivery. `remember` and `share`, as in `Step`, are stored with the attempt, whatever the
    outcome; None: nothing new."""

    outcome: Outcome
    remember: Memory | None = None
    share: Memory | None = None


Steps = Generator[Step, Response, Ended]


def group_key(owner: str, name: str) -> str:
    """The key under which something is remembered of a group. `owner`: its account, as `owner_of` writes it."""
    return f"group/{owner}/{name}"


def person_key(portal: str, address: str) -> str:
    """The key under which all subscriptions to a portal remember something about a person: a digest, which shows
    neither of the two."""
    digest = hashlib.sha256("\0".join((portal, address)).encode("utf-8", "replace"))
    return f"person/{digest.hexdigest()}"


def previewed(steps: Steps, most: int = MAX_STEPS) -> tuple[Step, ...]:
    """The steps, if the sink answers each as expected: the first ones, if they are more."""
    return imagined(steps, most)[0]


def imagined(steps: Steps, most: int = MAX_STEPS) -> tuple[tuple[Step, ...], Ended | None]:
    """The steps, if the sink answers each as expected, and what becomes of the delivery then; None after too many."""
    found: list[Step] = []
    ended: Ended | None = None
    try:
        step = next(steps)
        while True:
            found.append(step)
            if len(found) == most:
                break
            step = steps.send(Response(started_at=0.0, duration_ms=0.0, status_code=200, excerpt=step.expected))
        steps.close()
    except StopIteration as end:
        ended = end.value
    return tuple(found), ended
