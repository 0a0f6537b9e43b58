"""`/v1/replays`: send events again, and follow the progress."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.responses import Response

from relay.api.http.auth import READS_SUBSCRIPTIONS, WRITES_SUBSCRIPTIONS
from relay.api.http.fields import ID_PATTERN, MAX_TYPES, REPLAY_ID, SUBSCRIPTION_ID, Body, Moment
from relay.api.http.idempotency import STORED
from relay.api.http.operations import LOCATION, NEXT, Answer, Call, Operation, json_response, page_response
from relay.api.http.params import PAGE, boolean
from relay.api.http.problems import known
from relay.api.http.shown import Shown, Time, page_of
from relay.api.http.validation import event_types, invalid, pointer_of, types_named, validate
from relay.clock import from_rfc3339
from relay.core.deliveries import replay as core
from relay.core.deliveries.replay import Only, ReplayState
from relay.core.events.event import job_event_types
from relay.core.subscriptions.filters import matches
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.ids import new_id


class ReplayCreate(Body):
    """The events to send again."""

    since: Moment = Field(description="Events recorded at or after this time.", examples=["2026-05-19T00:00:00Z"])
    until: Moment | None = Field(
        default=None,
        description="Events recorded before this time. Default and maximum: now.",
        examples=["2026-05-20T00:00:00Z"],
    )
    types: list[str] | None = Field(
        default=None, min_length=1, max_length=MAX_TYPES, description="Default: all types of the subscription."
    )
    only: Literal["undelivered", "all"] = Field(
        default="undelivered",
        description="`all` includes delivered events, which receivers recognise by `id`.",
        examples=["undelivered"],
    )


class DeliveryFilter(Body):
    """Deliveries that match all of these conditions."""

    subscription: str | None = Field(
        default=None, pattern=ID_PATTERN, description="Deliveries to this subscription.", examples=[SUBSCRIPTION_ID]
    )
    state: Literal["pending", "dead", "cancelled", "uncertain", "delivered"] = Field(
        default="dead", description="Their state. With `pending`, deliveries that wait for a retry are tried now."
    )
    type: str | None = Field(
        default=None, description="Events of this type, full or short (`failed`: of every resource)."
    )
    since: Moment | None = Field(default=None, description="Events recorded at or after this time.")
    until: Moment | None = Field(default=None, description="Events recorded before this time.")
    reason: str | None = Field(
        default=None, pattern=ID_PATTERN, description="Deliveries with exactly this `reason`.", examples=["http_500"]
    )


class DeliveriesRetry(Body):
    """The deliveries to send again."""

    filter: DeliveryFilter


class ReplayStarted(Shown):
    """A replay that has started."""

    replay_id: str = Field(examples=[REPLAY_ID])
    matched: int = Field(description="The number of events to send.", examples=[12840])


class ReplayCounted(Shown):
    """The counts of a dry run."""

    matched: int = Field(description="The number of events that would be sent.", examples=[12840])
    complete: bool = Field(
        description="False if the range was too large to count all of it: there may be more.", examples=[True]
    )


class Replay(Shown):
    """The progress of a replay."""

    id: str = Field(examples=[REPLAY_ID])
    subscription_id: str | None = Field(description="null: all subscriptions.", examples=[SUBSCRIPTION_ID])
    state: ReplayState
    matched: int = Field(description="The number of events to send, counted at the start.", examples=[12840])
    queued: int = Field(description="How many of them have been queued for delivery.", examples=[1000])
    delivered: int = Field(examples=[612])
    dead: int
    left: int = Field(description="How many have not ended yet.", examples=[12228])
    since: Time = Field(examples=["2026-05-19T00:00:00.000Z"])
    until: Time
    types: list[str] | None
    only: Only = Field(description="undelivered, all, or the previous state of the deliveries.")
    reason: str | None = Field(description="Only deliveries that ended with this reason.")
    created_at: Time
    ended_at: Time | None


ReplayPage = page_of(Replay, "replays")

operation = partial(Operation, tag="Replays", bound=True, scopes=READS_SUBSCRIPTIONS)

_STARTED = Answer("The replay has started. `GET /v1/replays/{id}` has its progress.", ReplayStarted, headers=LOCATION)
_COUNTED = Answer("With `dry_run=true`: the number of events that would be sent. Nothing has started.", ReplayCounted)
_DRY_RUN = boolean("dry_run", "Only count the events.", default=False)
_TOO_MANY = {409: "A hundred replays are already running."}


@operation(
    "POST /v1/subscriptions/{id}/replay",
    repeats=STORED,
    audited=lambda query: None if query["dry_run"] else "subscriptions.replay",
    scopes=WRITES_SUBSCRIPTIONS,
    query=(_DRY_RUN,),
    body=ReplayCreate,
    answers={200: _COUNTED, 202: _STARTED},
    problems=_TOO_MANY,
    tag="Subscriptions",
)
async def replay_subscription(call: Call) -> Response:
    """Send a range of events again.

    Sends the undelivered events recorded from `since` until before `until`, including events older than the
    subscription; with `only: all` also the delivered ones. Each keeps its id. They go out in order within a job,
    and always behind new events.
    """
    subscription = known(await call.dependencies.store.subscriptions.get(call.id), "subscription", call.id)
    body = validate(ReplayCreate, call.document)
    types, errors = event_types(body.types or (), call.context.known_types, "/types")
    if not errors:
        errors = [
            FieldError(pointer=pointer_of("types", index), code="unknown_type", detail=why)
            for index, name in enumerate(types)
            if (why := _not_sent(call, subscription, name)) is not None
        ]
    wanted = {"subscription_id": subscription.id, "types": None if body.types is None else types, "only": body.only}
    return await _replay(call, body.since, body.until, "", errors, wanted)


@operation(
    "POST /v1/deliveries/retry",
    repeats=STORED,
    audited=lambda query: None if query["dry_run"] else "deliveries.retry_many",
    scopes=WRITES_SUBSCRIPTIONS,
    query=(_DRY_RUN,),
    body=DeliveriesRetry,
    answers={200: _COUNTED, 202: _STARTED},
    problems=_TOO_MANY,
    tag="Deliveries",
)
async def retry_deliveries(call: Call) -> Response:
    """Send matching deliveries again.

    They go out in order within a job and a subscription, each with a fresh retry schedule, and always behind new
    events.
    """
    wanted = validate(DeliveriesRetry, call.document).filter
    types, errors = types_named(wanted.type, call.context.known_types, "/filter/type")
    fields = {
        "subscription_id": wanted.subscription,
        "types": types or None,
        "only": wanted.state,
        "reason": wanted.reason,
    }
    return await _replay(call, wanted.since, wanted.until, "/filter", errors, fields)


@operation("GET /v1/replays", query=PAGE, answers={200: Answer("A page.", ReplayPage, headers=NEXT)})
async def list_replays(call: Call) -> Response:
    """List replays, newest first. Those that ended are kept as long as events are."""
    page = await call.dependencies.store.replays.page(**call.query)
    return page_response(call.request, map(Replay.of, page.items), page.next_cursor)


@operation("GET /v1/replays/{id}", answers={200: Answer("The replay.", Replay)})
async def get_replay(call: Call) -> Response:
    """Read the progress of a replay."""
    return json_response(Replay.of(known(await call.dependencies.store.replays.get(call.id), "replay", call.id)))


@operation(
    "DELETE /v1/replays/{id}",
    audited="replays.stop",
    scopes=WRITES_SUBSCRIPTIONS,
    answers={200: Answer("The stopped replay.", Replay)},
)
async def stop_replay(call: Call) -> Response:
    """Stop a replay.

    Deliveries not yet sent return to their previous state; attempts in flight finish. A replay that has ended is
    unchanged.
    """
    stopped = await call.dependencies.store.replays.stop(call.id, call.dependencies.clock())
    call.dependencies.signals.deliveries_due()
    return json_response(Replay.of(stopped))


async def _replay(
    call: Call, since: str | None, until: str | None, place: str, errors: list[FieldError], wanted: Mapping[str, Any]
) -> Response:
    """Starts a replay, or counts what it would send. Its end is at most now: later events are sent anyway. Raises
    InvalidRequest for a range in which nothing can be, and with these errors. `place`: the pointer to the range."""
    now = call.dependencies.clock()
    first = 0.0 if since is None else from_rfc3339(since)
    last = now if until is None else min(from_rfc3339(until), now)
    if first >= now:
        errors.append(FieldError(pointer=f"{place}/since", code="out_of_range", detail="it must be in the past"))
    elif first >= last:
        errors.append(FieldError(pointer=f"{place}/until", code="out_of_range", detail="it must be after since"))
    if errors:
        raise invalid(*errors)
    request = core.ReplayRequest(id=new_id("rpl", now), since=first, until=last, now=now, **wanted)
    if call.query["dry_run"]:
        return json_response(ReplayCounted.of(await call.dependencies.store.replays.count(request)))
    made = await call.dependencies.store.replays.create(request)
    answer = ReplayStarted.of(made, replay_id=made.id)
    return json_response(answer, 202, {"Location": f"/v1/replays/{made.id}"})


def _not_sent(call: Call, subscription: Subscription, name: str) -> str | None:
    """The reason why a subscription never gets events of this type; None if it does."""
    job_event = any(name in job_event_types(one) for one in call.context.settings.origins.values())
    source = subscription.source or ""
    if (
        job_event
        if subscription.callback
        else matches(subscription, name, source, job_event=job_event, owner=subscription.owner)
    ):
        return None
    return f"subscription {subscription.id} does not get events of the type {name!r}"
