"""`/v1/subscriptions/{id}/pull`, `/ack`, `/nack`: a program asks for its deliveries instead of being sent to."""

import re
from collections.abc import Iterable
from functools import partial
from typing import Literal

import orjson
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from relay.api.events.events import CloudEvent
from relay.api.http.auth import PULLS, TOKEN_GONE
from relay.api.http.fields import DELIVERY_ID, EVENT_ID, TIME, Body
from relay.api.http.idempotency import STORED
from relay.api.http.operations import Answer, Call, Operation, json_response
from relay.api.http.problems import known
from relay.api.http.shown import Shown, Time
from relay.api.http.stream import fragment
from relay.api.http.validation import validate
from relay.api.subscriptions.models import Lag
from relay.clock import to_rfc3339
from relay.core.deliveries import pulls as core
from relay.core.subscriptions.subscription import PULL, Subscription
from relay.errors import Conflict, Unauthorized
from relay.store.deliveries.pulls import Settled

SLICE_SECONDS = 1.0
"""Interval at which a wait checks that the node runs and its token is valid, in memory."""
GONE_SECONDS = 5.0
"""Interval at which it checks for its caller's disconnect: the main cost of thousands of waits."""
_DELIVERY_ID = re.compile("dlv_[0-9a-z]{26}")

Reason = Literal["paused", "disabled", "pending"]


class PullRequest(Body):
    """A request for deliveries."""

    max: int = Field(default=100, ge=1, le=core.MAX_PULLED, description="Maximum deliveries.", examples=[100])
    wait_seconds: float = Field(
        default=0.0,
        ge=0,
        le=core.MAX_WAIT_SECONDS,
        description="If nothing is due, the answer comes with the first delivery, or empty after this time.",
        examples=[20],
    )
    lease_seconds: float = Field(
        default=60.0,
        ge=core.MIN_LEASE_SECONDS,
        le=core.MAX_LEASE_SECONDS,
        description="How long the deliveries are this program's. What is not acknowledged by then is due again, and "
        "that counts as an attempt.",
        examples=[60],
    )


class Acknowledged(Body):
    """The deliveries that were processed."""

    ids: list[str] = Field(min_length=1, max_length=core.MAX_PULLED, examples=[[DELIVERY_ID]])


class NotAcknowledged(Acknowledged):
    """The deliveries that were not processed."""

    delay_seconds: float | None = Field(
        default=None,
        ge=0,
        le=core.MAX_DELAY_SECONDS,
        description="Until they are due again. Default: the schedule.",
        examples=[30],
    )
    untried: bool = Field(
        default=False,
        description="They were not tried: they are due at once, and no attempt is counted. For a program that ends.",
    )

    @model_validator(mode="after")
    def _check(self) -> "NotAcknowledged":
        if self.untried and self.delay_seconds is not None:
            raise PydanticCustomError("untried_delay", "untried deliveries are due at once: leave delay_seconds out")
        return self


class PulledDelivery(Shown):
    """An event, and the id to acknowledge it with."""

    delivery_id: str = Field(examples=[DELIVERY_ID])
    event_id: str = Field(
        description="The relay's id of the event. One that was published has another.", examples=[EVENT_ID]
    )
    event: CloudEvent
    attempt: int = Field(description="1, or more if it was handed out before.", examples=[1])


class Pulled(Shown):
    """Deliveries under a lease. Those of one job, or partition key, are in their order."""

    items: list[PulledDelivery]
    lease_ends_at: Time | None = Field(description="null without items.", examples=[TIME])
    lag: Lag
    reason: Reason | None = Field(description="Why nothing is handed out at present; null if it may be.")


class AckResult(Shown):
    """`acked`; `already`: it had ended before; `unknown`: it is no delivery of this subscription, or was erased."""

    id: str = Field(examples=[DELIVERY_ID])
    result: Literal["acked", "already", "unknown"]


class NackResult(Shown):
    """`nacked`; `already`: it is under no lease, so it is due again or has ended; `unknown`: it is no delivery of this
    subscription, or was erased."""

    id: str = Field(examples=[DELIVERY_ID])
    result: Literal["nacked", "already", "unknown"]


class Acks(Shown):
    """The result for each id, in the given order."""

    results: list[AckResult]


class Nacks(Shown):
    """The result for each id, in the given order."""

    results: list[NackResult]
    returned: list[str] = Field(
        description="Later deliveries of the same jobs or keys in the same answers. They go back untried."
    )


operation = partial(Operation, tag="Subscriptions", bound=True, scopes=PULLS)
_NOT_PULLED = {409: "The subscription's protocol is not PULL."}


@operation(
    "POST /v1/subscriptions/{id}/pull",
    counted="deliveries.pull",
    body=PullRequest,
    body_optional=True,
    answers={200: Answer("The deliveries; none after the wait.", Pulled)},
    problems={**_NOT_PULLED, 429: "Too many pulls of the token wait for this subscription."},
)
async def pull_deliveries(call: Call) -> Response:
    """Pull deliveries.

    They are leased: no other pull gets them, or later ones of the same jobs or partition keys, until they are
    acknowledged, given back, or the lease ends.
    """
    wanted = validate(PullRequest, call.document)
    subscription = await _find(call)
    admission = call.dependencies.admission
    with admission.pulls.held(call.caller), admission.pulls_of_one.held(f"{call.caller} {subscription.id}"):
        return await _pulled(call, subscription, wanted)


async def _pulled(call: Call, subscription: Subscription, wanted: PullRequest) -> Response:
    pulls, left, unseen = call.dependencies.pulls, wanted.wait_seconds, 0.0
    with pulls.arrivals.watch(subscription.id) as watch:
        while True:
            if subscription.state == "enabled":
                claimed, until = await pulls.pull(subscription, wanted.max, wanted.lease_seconds)
                if claimed:
                    break
            else:
                claimed, until = (), 0.0
            arrived = False
            while left > 0 and not arrived and not call.dependencies.node.stopping:
                turn = min(left, SLICE_SECONDS)
                left, unseen = left - turn, unseen + turn
                arrived = await watch.wait(turn)
                if not call.is_allowed:
                    raise Unauthorized(TOKEN_GONE)
                if arrived or unseen >= GONE_SECONDS:
                    unseen = 0.0
                    if await call.request.is_disconnected():
                        left, arrived = 0.0, False  # the caller is gone, and would acknowledge nothing
            if not arrived:
                break
            subscription = await _find(call)
    lag = await pulls.lag(subscription.id, core.LAG_COUNTED_IN_ANSWERS)
    call.count = len(claimed)
    answer = {
        "items": [
            {
                "delivery_id": one.id,
                "event_id": one.event.id,
                "event": fragment(one.event),
                "attempt": one.made_count + 1,
            }
            for one in claimed
        ],
        "lease_ends_at": to_rfc3339(until) if claimed else None,
        "lag": Lag.of(lag, oldest_seconds=lag.oldest_seconds(call.dependencies.clock())),
        "reason": None if subscription.state == "enabled" else subscription.state,
    }
    return Response(orjson.dumps(answer), media_type="application/json")


@operation(
    "POST /v1/subscriptions/{id}/ack",
    repeats=STORED,
    counted="deliveries.ack",
    body=Acknowledged,
    answers={200: Answer("What came of each.", Acks)},
    problems=_NOT_PULLED,
)
async def ack_deliveries(call: Call) -> Response:
    """Acknowledge deliveries.

    An acknowledgement counts even after the lease has ended, while nothing else has ended the delivery. It may be
    repeated. A body that is refused acknowledges none.
    """
    ids = dict.fromkeys(validate(Acknowledged, call.document).ids)
    subscription = await _find(call)
    settled = await call.dependencies.pulls.ack(subscription, [id for id in ids if _DELIVERY_ID.fullmatch(id)])
    call.count = sum(answer == "done" for answer in settled.answers.values())
    return json_response({"results": _results(ids, settled, "acked")})


@operation(
    "POST /v1/subscriptions/{id}/nack",
    repeats=STORED,
    counted="deliveries.nack",
    body=NotAcknowledged,
    answers={200: Answer("What came of each.", Nacks)},
    problems=_NOT_PULLED,
)
async def nack_deliveries(call: Call) -> Response:
    """Give deliveries back.

    They are due again by the subscription's retry schedule, or after `delay_seconds`. Later deliveries of the same
    jobs or partition keys wait for them. After the last attempt of the schedule a delivery is dead.
    """
    given = validate(NotAcknowledged, call.document)
    ids = dict.fromkeys(given.ids)
    subscription = await _find(call)
    well_formed = [id for id in ids if _DELIVERY_ID.fullmatch(id)]
    if given.untried:
        settled = await call.dependencies.pulls.give_back(subscription, well_formed)
    else:
        settled = await call.dependencies.pulls.nack(subscription, well_formed, given.delay_seconds)
    call.count = sum(answer == "done" for answer in settled.answers.values())
    return json_response({"results": _results(ids, settled, "nacked"), "returned": list(settled.returned)})


def _results(ids: Iterable[str], settled: Settled, done: str) -> list[dict[str, str]]:
    answers = settled.answers
    return [{"id": id, "result": done if answers.get(id) == "done" else answers.get(id, "unknown")} for id in ids]


async def _find(call: Call) -> Subscription:
    subscription = known(await call.dependencies.store.subscriptions.get(call.id), "subscription", call.id)
    if subscription.kind != PULL:
        detail = "its events are sent to its sink: to pull them, create a subscription with protocol PULL"
        raise Conflict(f"subscription {subscription.id} is not pulled: {detail}", code="not_pulled")
    return subscription
