"""Deliveries that take several requests: the values that a kind of sink yields and returns. Pure.

A kind writes such a delivery as a generator: it yields a Step, is sent the Response to it, and returns the result of
the delivery. `relay/delivery/dialogues.py` sends the steps; a preview uses the expected answers.
"""

import hashlib
from collections.abc import Generator, Mapping
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.values import value_class

MAX_STEPS = 20
"""Maximum number of requests of one delivery."""

SHARED = ""
"""In place of a subscription's id: a memory that all subscriptions to a portal share."""

Memory = Mapping[str, Any]
"""A subscription's memory of a sink under one key, as JSON; empty if there is none."""


@value_class(frozen=True, slots=True, kw_only=True)
class Step:
    """One request.

    name      names it in the attempt and in a preview, without secrets and texts of others
    expected  the body of the answer in a preview, with placeholders for values that only the sink knows
    remember  stored before the request is sent: a crash after that cannot lose it
    share     the same, for a person's memory shared by all subscriptions to the portal. Not sent unless it is stored
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
    """The result of a delivery. `remember` and `share`, as in `Step`, are stored with the attempt, whatever the
    outcome; None: no change."""

    outcome: Outcome
    remember: Memory | None = None
    share: Memory | None = None


Steps = Generator[Step, Response, Ended]


def group_key(owner: str, name: str) -> str:
    """The key of a subscription's memory of a group. `owner`: its account, as `owner_of` writes it."""
    return f"group/{owner}/{name}"


def person_key(portal: str, address: str) -> str:
    """The key of the memory of a person that all subscriptions to a portal share: a digest, which reveals neither the
    portal nor the person."""
    digest = hashlib.sha256("\0".join((portal, address)).encode("utf-8", "replace"))
    return f"person/{digest.hexdigest()}"


def previewed(steps: Steps, most: int = MAX_STEPS) -> tuple[Step, ...]:
    """The first `most` steps, if the sink answers each as expected."""
    return imagined(steps, most)[0]


def imagined(steps: Steps, most: int = MAX_STEPS) -> tuple[tuple[Step, ...], Ended | None]:
    """The steps, if the sink answers each as expected, and the result of the delivery; None after more than `most`
    steps."""
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
