"""`/v1/subscriptions`: create, read, change, test, pause, resume, rotate secrets."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field
from starlette.responses import Response

from relay.api.deliveries.deliveries import SEEN_BY_FEW, Attempt, attempt_view
from relay.api.events.events import CloudEvent
from relay.api.http.auth import ADMINS, READS_SUBSCRIPTIONS, WRITES_SUBSCRIPTIONS
from relay.api.http.fields import Body, Nothing
from relay.api.http.idempotency import STORED, Repeats, stored
from relay.api.http.operations import LOCATION, NEXT, Answer, Call, Context, Operation, json_response, page_response
from relay.api.http.params import PAGE, boolean
from relay.api.http.problems import known
from relay.api.http.shown import Shown, Time
from relay.api.http.validation import invalid, types_named, validate
from relay.api.http.warnings import warnings_of_hosts
from relay.api.jobs.registration import MAX_METADATA_BYTES
from relay.api.subscriptions.checks import (
    CHECK,
    CHECK_PROBLEMS,
    awaits_consent,
    needs_check,
    read_create,
    read_replace,
    same_place,
    tried,
)
from relay.api.subscriptions.kind_fields import place_of
from relay.api.subscriptions.models import (
    Lag,
    NewSubscription,
    RemovedSubscription,
    Skipped,
    Subscription,
    SubscriptionCreate,
    SubscriptionPage,
    SubscriptionReplace,
    SubscriptionWithSkipped,
    subscription_view,
)
from relay.clock import to_rfc3339
from relay.core.events.event import Event, Origin, source_event_types
from relay.core.jsontext import dumps
from relay.core.records import SubscriptionRoom
from relay.core.samples import sample_event
from relay.core.subscriptions import subscription as core
from relay.core.subscriptions.filters import is_free_type, matches
from relay.core.subscriptions.handshake import WAITS, with_facts
from relay.core.subscriptions.signing import new_secret
from relay.core.subscriptions.subscription import SigningSecret
from relay.core.turns import is_unreadable
from relay.errors import Conflict, FieldError
from relay.ids import new_id
from subscribers.common.templates import unreadable_template
from subscribers.registry import kind_named, kinds

MAX_OVERLAP_SECONDS = 30 * 86_400.0
DEFAULT_TEST_TYPE = "relay.test"


class TestRequest(Body):
    """The sample event to send."""

    __test__: ClassVar[bool] = False  # pytest would collect it

    type: str | None = Field(default=None, description="An event type. Default: `relay.test`.", examples=["relay.test"])
    metadata: dict[str, Any] | None = Field(
        default=None, description="Added to the metadata of the sample's job, such as whom a CRM should find."
    )


class SecretRotation(Body):
    """Lifetime of the old secret after a rotation."""

    overlap_seconds: float = Field(default=86_400, ge=0, le=MAX_OVERLAP_SECONDS, examples=[86400])


class TestResult(Shown):
    """The result of a test. It is not stored."""

    delivered: bool = Field(examples=[True])
    verdict: Literal["delivered", "retry", "dead", "disable", "skip", "uncertain"]
    reason: str = Field(examples=["200 OK"])
    event: CloudEvent
    attempt: Attempt


class Secret(Shown):
    """A signing secret."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])  # of the Standard Webhooks specification


class RotatedSecret(Secret):
    """The new signing secret, and when the old one expires."""

    old_secret_expires_at: Time = Field(examples=["2026-05-21T10:00:00.000Z"])


_CODE = re.compile(r"[a-z]+(?:_[a-z0-9]+)*(?=[:,]|$)")
"""At the beginning of a reason; what follows can be the sink's words."""

operation = partial(Operation, tag="Subscriptions", bound=True, scopes=READS_SUBSCRIPTIONS)

_SUBSCRIPTION = Answer("The subscription.", Subscription)


def _id_and_secret(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": answer["id"], "config": {"secret": answer["config"].get("secret")}}


async def _subscription_again(call: Call, kept: Mapping[str, Any]) -> dict[str, Any]:
    return _plain(call, await _named(call, kept["id"]), kept["config"]["secret"])


@operation(
    "POST /v1/subscriptions",
    repeats=Repeats(_id_and_secret, _subscription_again),
    audited="subscriptions.create",
    scopes=WRITES_SUBSCRIPTIONS,
    body=SubscriptionCreate,
    query=(
        boolean("reuse", "If the sink already has a subscription, return it with 200 and create none.", default=False),
        CHECK,
    ),
    answers={
        200: Answer("With `reuse`: the existing subscription of this sink, unchanged.", Subscription),
        201: Answer("The new subscription. `config.secret` is only here.", NewSubscription, headers=LOCATION),
    },
    problems={
        409: "The token has made too many subscriptions, or filters would make too many distinct comparisons.",
        **CHECK_PROBLEMS,
    },
)
async def create_subscription(call: Call) -> Response:
    """Subscribe to events.

    For a CRM, a few requests first check its sink and credential; for a broker, a connection checks the topic, stream,
    queue or exchange. If the check fails, nothing is stored.
    """
    now = call.dependencies.clock()
    subscription, given = read_create(call.document, call.context, id=call.new_id("sub", now), now=now)
    if (
        call.first is not None
        and (known := await call.dependencies.store.subscriptions.get(subscription.id)) is not None
    ):
        return _made(call, known)  # the first request was cut off after its commit
    subscription = with_facts(subscription, await tried(call, subscription) or {})
    if call.query["reuse"] and subscription.sink:
        wanted = _place(subscription)
        same = [one for one in await call.dependencies.store.subscriptions.all() if _place(one) == wanted]
        if same:
            return _shown(call, min(same, key=lambda one: one.id))
    made = with_secret(subscription, given, call.context, now)
    room = SubscriptionRoom(call.caller, fewer_than=call.dependencies.settings.max_subscriptions_of_caller)
    await call.dependencies.store.subscriptions.create(made, room)
    call.dependencies.signals.deliveries_due()
    return _made(call, made, await _warnings(call, made))


def _place(one: core.Subscription) -> tuple[object, ...]:
    """The destination of a subscription: a URL, and there a channel, or a portal and the type of record."""
    portal = kind_named(one.kind).portal(one) if one.kind in kinds() else None
    return _comparable(one.sink), portal, *place_of(one)


async def _warnings(call: Call, subscription: core.Subscription) -> list[str]:
    sinks = [subscription.sink] if subscription.protocol == "HTTP" else []
    return await warnings_of_hosts(call.dependencies, sinks, "sink")


def _made(call: Call, made: core.Subscription, warnings: Sequence[str] = ()) -> Response:
    view = {**_plain(call, made, made.secrets[0].value), **_warned(warnings)}
    return json_response(view, 201, {"Location": f"/v1/subscriptions/{made.id}"})


@operation(
    "GET /v1/subscriptions",
    query=(
        boolean("callbacks", "Include subscriptions created by a `callback_url`.", default=False),
        boolean("lag", "Count what the programs of protocol PULL have not acknowledged.", default=True),
        *PAGE,
    ),
    answers={200: Answer("A page.", SubscriptionPage, headers=NEXT)},
)
async def list_subscriptions(call: Call) -> Response:
    """List subscriptions, newest first."""
    query = dict(call.query)
    lag = query.pop("lag")
    page = await call.dependencies.store.subscriptions.page(**query)
    return page_response(call.request, [await _view(call, one, lag=lag) for one in page.items], page.next_cursor)


@operation("GET /v1/subscriptions/{id}", answers={200: Answer("The subscription.", SubscriptionWithSkipped)})
async def get_subscription(call: Call) -> Response:
    """Read a subscription."""
    subscription = await _find(call)
    skipped = await call.dependencies.store.deliveries.skipped(subscription.id)
    return json_response({**await _view(call, subscription, lag=True), "skipped": Skipped.of(skipped)})


@operation(
    "PUT /v1/subscriptions/{id}",
    audited="subscriptions.replace",
    scopes=WRITES_SUBSCRIPTIONS,
    body=SubscriptionReplace,
    query=(CHECK,),
    answers={200: Answer("The subscription.", NewSubscription)},
    problems={
        409: "The subscription was created by a `callback_url`, another request has changed it meanwhile, or filters "
        "would make too many distinct comparisons.",
        **CHECK_PROBLEMS,
    },
)
async def replace_subscription(call: Call) -> Response:
    """Replace a subscription's settings.

    Its id, state, secret and start are kept. For a CRM or a broker, a new sink or credential is tried first.
    """
    before = await _find(call)
    _refuse_callback(before, "its settings cannot be changed")
    after, awaits = read_replace(call.document, call.context, before), partial(awaits_consent, context=call.context)
    if needs_check(after, before) and (facts := await tried(call, after)) is not None:
        again = read_replace(call.document, call.context, await _find(call))  # what was stored meanwhile is kept
        if not same_place(after, again):
            raise Conflict("another request has changed it meanwhile: try again", code="subscriptions_changed")
        after = with_facts(again, facts)
    await call.dependencies.store.subscriptions.replace(after, call.dependencies.clock(), awaits)
    call.dependencies.signals.deliveries_due()
    return _shown(call, await _find(call), [] if after.sink == before.sink else await _warnings(call, after))


@operation(
    "DELETE /v1/subscriptions/{id}",
    audited="subscriptions.remove",
    scopes=WRITES_SUBSCRIPTIONS,
    answers={200: Answer("The removed subscription.", RemovedSubscription)},
)
async def delete_subscription(call: Call) -> Response:
    """Remove a subscription.

    Its pending deliveries are cancelled.
    """
    subscription = await _find(call)
    cancelled = await call.dependencies.store.subscriptions.pending(subscription.id)
    await call.dependencies.store.subscriptions.remove(subscription.id, call.dependencies.clock())
    call.dependencies.signals.deliveries_due()
    return json_response({**await _view(call, subscription), "cancelled": cancelled})


def _of_test(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The time and result of a test, without the sample, which has the caller's metadata, and the sink's answer."""
    event, code = answer["event"], _CODE.match(answer["reason"])
    return {
        **answer,
        "reason": answer["verdict"] if code is None else code[0],
        "event": {"specversion": "1.0", "id": event["id"], "source": event["source"], "type": event["type"]},
        "attempt": {**answer["attempt"], **dict.fromkeys((*SEEN_BY_FEW, "error", "decision", "remote_ip"))},
    }


@operation(
    "POST /v1/subscriptions/{id}/test",
    repeats=stored(_of_test),
    audited="subscriptions.test",
    scopes=WRITES_SUBSCRIPTIONS,
    body=TestRequest,
    body_optional=True,
    answers={200: Answer("The attempt, even if the sink refused it.", TestResult)},
    problems={
        409: "The sink has not consented, a program pulls the events, or the subscription's account has no events of "
        "this type.",
        429: "Too many tests are being sent.",
    },
)
async def test_subscription(call: Call) -> Response:
    """Send a sample event now.

    Works while the subscription is paused. Nothing is stored.
    """
    subscription = await _find(call)
    if subscription.kind == core.PULL:
        raise Conflict("nothing is sent to it: a program asks for its events", code="nothing_to_send")
    if awaits_consent(subscription, call.context):
        detail = f"nothing is sent before the sink consents ({subscription.state_reason}): resume asks it again"
        raise Conflict(detail, code="no_consent")
    given = validate(TestRequest, call.document)
    wanted = DEFAULT_TEST_TYPE if given.type is None else given.type
    event = sample_of(call, wanted, given.metadata, subscription)
    with call.dependencies.admission.tests.held(call.caller):
        attempt, outcome = await call.dependencies.dispatcher.test(subscription, event)
    shown = {"delivered": outcome.verdict == "delivered", "event": event.document()}
    return json_response(TestResult.of(outcome, **shown, attempt=attempt_view(attempt, whole=True)))


@operation(
    "POST /v1/subscriptions/{id}/pause",
    repeats=Repeats(_id_and_secret, _subscription_again),
    audited="subscriptions.pause",
    scopes=WRITES_SUBSCRIPTIONS,
    body=Nothing,
    answers={200: _SUBSCRIPTION},
    problems={409: "The subscription is disabled."},
)
async def pause_subscription(call: Call) -> Response:
    """Pause a subscription.

    Its events are still recorded, and wait.
    """
    subscription = await _find(call)
    if subscription.state == "disabled":
        detail = f"it is disabled ({subscription.disabled_reason}), so nothing is sent: use resume to enable it"
        raise Conflict(detail, code="subscription_disabled")
    return await _set_state(call, subscription, "paused")


@operation(
    "POST /v1/subscriptions/{id}/resume",
    repeats=Repeats(_id_and_secret, _subscription_again),
    audited="subscriptions.resume",
    scopes=WRITES_SUBSCRIPTIONS,
    body=Nothing,
    problems={409: "Its filters or its template cannot be read: correct them first."},
    answers={200: _SUBSCRIPTION},
)
async def resume_subscription(call: Call) -> Response:
    """Resume a paused or disabled subscription.

    One whose sink has not consented is pending, and the sink is asked again.
    """
    subscription = await _find(call)
    if is_unreadable(subscription.disabled_reason) and (why := unreadable_template(subscription)) is not None:
        detail = f"its template cannot be read: {why}. Correct it, then resume the subscription"
        raise Conflict(detail, code="template_unreadable")
    return await _set_state(call, subscription, "pending" if awaits_consent(subscription, call.context) else "enabled")


@operation(
    "POST /v1/subscriptions/{id}/rotate-secret",
    repeats=STORED,
    audited="subscriptions.rotate_secret",
    scopes=WRITES_SUBSCRIPTIONS,
    body=SecretRotation,
    body_optional=True,
    answers={200: Answer("The new secret. It is only in this response.", RotatedSecret)},
    problems={409: "The subscription was created by a `callback_url`."},
)
async def rotate_secret(call: Call) -> Response:
    """Create a new signing secret.

    Both secrets sign until the old one expires.
    """
    subscription = await _find(call)
    _refuse_callback(subscription, "it uses the relay's own secret, see GET /v1/signing-secret")
    return await rotated(call, subscription.id)


@operation(
    "GET /v1/signing-secret",
    audited="signing_secret.read",
    bound=False,
    scopes=ADMINS,
    answers={200: Answer("The secret.", Secret)},
)
async def get_signing_secret(call: Call) -> Response:
    """Read the secret that signs requests to callback URLs."""
    return json_response({"secret": await call.dependencies.node.callback_secret()})


async def rotated(call: Call, owner: str) -> Response:
    """The answer with a new signing secret of a subscription, or of callbacks."""
    secret = new_signing_secret()
    _, expires_at = await add_secret(call, owner, secret)
    return json_response({"secret": secret, "old_secret_expires_at": to_rfc3339(expires_at)})


async def add_secret(call: Call, owner: str, made: str) -> tuple[float, float]:
    """Adds a secret or key. Returns the present time, and when the old ones expire."""
    overlap_seconds = validate(SecretRotation, call.document).overlap_seconds
    now = call.dependencies.clock()
    await call.dependencies.store.secrets.add_secret(owner, made, now, old_expire_at=now + overlap_seconds)
    call.dependencies.signals.deliveries_due()
    return now, now + overlap_seconds


def new_signing_secret() -> str:
    """A generated signing secret."""
    return new_secret(secrets.token_bytes(32))


def with_secret(made: core.Subscription, given: str | None, context: Context, now: float) -> core.Subscription:
    """A new subscription with its signing secret, a generated one by default. It is pending if its sink must consent
    first."""
    made = replace(made, secrets=(SigningSecret(value=given or new_signing_secret()),))
    if awaits_consent(made, context):
        return replace(made, state="pending", state_reason=WAITS, handshake_at=now)
    return made


def _comparable(url: str) -> tuple[str, ...]:
    """Equal for the same URL. Scheme and host are compared case-insensitively."""
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower(), parts.path or "/", parts.query


def _plain(call: Call, subscription: core.Subscription, secret: str | None = None) -> dict[str, Any]:
    return subscription_view(subscription, call.shown_sink, call.dependencies.settings, secret=secret)


async def _view(call: Call, subscription: core.Subscription, *, lag: bool = False) -> dict[str, Any]:
    shown = _plain(call, subscription)
    if lag and subscription.kind == core.PULL:
        found = await call.dependencies.pulls.lag(subscription.id)
        shown["lag"] = Lag.of(found, oldest_seconds=found.oldest_seconds(call.dependencies.clock()))
    return shown


def _shown(call: Call, subscription: core.Subscription, warnings: Sequence[str] = ()) -> Response:
    return json_response({**_plain(call, subscription), **_warned(warnings)})


def _warned(warnings: Sequence[str]) -> dict[str, Any]:
    return {"warnings": list(warnings)} if warnings else {}


async def _find(call: Call) -> core.Subscription:
    return await _named(call, call.id)


async def _named(call: Call, id: str) -> core.Subscription:
    return known(await call.dependencies.store.subscriptions.get(id), "subscription", id)


async def _set_state(call: Call, subscription: core.Subscription, state: str) -> Response:
    reason = {"paused": "paused by hand", "enabled": "resumed by hand", "pending": WAITS}[state]
    await call.dependencies.store.subscriptions.set_state(subscription.id, state, call.dependencies.clock(), reason)
    call.dependencies.signals.deliveries_due()
    return _shown(call, await _find(call))


def _refuse_callback(subscription: core.Subscription, why: str) -> None:
    if subscription.callback:
        raise Conflict(
            f"subscription {subscription.id} was created by a callback_url: {why}", code="callback_subscription"
        )


def sample_of(call: Call, type: str, metadata: Mapping[str, Any] | None, subscription: core.Subscription) -> Event:
    """A sample event. `metadata`: added to that of its job. Of the types that a short name stands for, it has the first
    one that the subscription gets, or the first one. Raises InvalidRequest for an unknown type, and for metadata that
    are larger than a job's can be."""
    if metadata is not None and len(dumps(metadata)) > MAX_METADATA_BYTES:
        detail = f"it is larger than {MAX_METADATA_BYTES:,} bytes of JSON"
        raise invalid(FieldError(pointer="/metadata", code="too_large", detail=detail))
    types, errors = types_named(type, call.context.known_types, "/type")
    if errors:
        raise invalid(*errors)
    wanted = next((one for one in types if _gets(call, subscription, one)), types[0])
    name, origin, account = _origin(call, wanted, subscription.owner)
    now = call.dependencies.clock()
    return sample_event(
        wanted,
        event_id=new_id("evt", now),
        now=now,
        origin=origin,
        dataschema_base=call.context.base_url,
        source=name,
        account=account,
        metadata=metadata,
    )


def _gets(call: Call, subscription: core.Subscription, event_type: str) -> bool:
    """True if a subscription gets job events of this type."""
    for (source, _), origin in call.dependencies.settings.origins.items():
        owner = subscription.owner if (subscription.owner or "").startswith(f"{source}/") else None
        if event_type in source_event_types(origin) and matches(
            subscription, event_type, origin.source, job_event=True, owner=owner
        ):
            return True
    return False


def _origin(call: Call, event_type: str, owner: str | None) -> tuple[str, Origin, str]:
    """The source of this event type, any source for events about the relay, and an account of it. Of a subscription
    that belongs to an account, that one: its sink must not learn the names of others."""
    origins, accounts = call.dependencies.settings.origins, call.dependencies.settings.accounts
    source, _, account = (owner or "").partition("/")
    of_type = (place for place, origin in origins.items() if event_type in source_event_types(origin))
    found = next(of_type, None) or ((source, "") if owner is not None else next(iter(origins)))
    if owner is None:
        return found[0], origins[found], (accounts.get(found[0]) or ("default",))[0]
    free = is_free_type(event_type, call.context.known_types)
    if (source, "") not in origins or (found[0] != source and not free):
        detail = f"it belongs to the account {owner}, which has no events of the type {event_type!r}"
        raise Conflict(detail, code="type_not_sent")
    return source, origins[found if found[0] == source else (source, "")], account
