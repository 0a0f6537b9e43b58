"""Reads the bodies of subscriptions: what is checked beyond their models, and the core value that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from relay.api.deliveries.sink_credentials import credential_errors, is_shown, kept_credential, made_credential
from relay.api.http.auth import TOKEN_GONE
from relay.api.http.fields import header_view
from relay.api.http.operations import Call, Context
from relay.api.http.params import boolean
from relay.api.http.problems import did_you_mean
from relay.api.http.validation import event_types, invalid, pointer_of, validate
from relay.api.jobs.registration import check_sink
from relay.api.subscriptions.kind_fields import destination_of, read_fields, switches_on
from relay.api.subscriptions.models import (
    DeclaredSubscription,
    ProtocolSettings,
    SubscriptionConfig,
    SubscriptionCreate,
    SubscriptionReplace,
    start_differs,
    start_seconds,
)
from relay.core.access.netguard import check_custom_headers, origin_of
from relay.core.deliveries.broker import SCHEMES, protocol_of, refusal_of_broker
from relay.core.deliveries.credentials import SinkCredential
from relay.core.events.event import INCIDENT_EVENTS
from relay.core.subscriptions import handshake
from relay.core.subscriptions import subscription as core
from relay.core.subscriptions.declared import same_credential
from relay.core.subscriptions.filters import FiltersRefused, is_free_type, is_misspelt, parse_filters
from relay.core.subscriptions.handshake import refusal_of_dial
from relay.core.subscriptions.subscription import PORTAL, PROTOCOLS, PULL, SETTINGS, Subscription
from relay.errors import FieldError, SinkRefused, Unauthorized
from relay.ids import new_id
from relay.redaction import REDACTED, url_without_path
from subscribers.registry import broker_of, infer_kind, kind_named, kinds, redacted_url

Body = TypeVar("Body", bound=SubscriptionCreate)


def awaits_consent(subscription: core.Subscription, context: Context) -> bool:
    """True if nothing may be sent to the sink before a handshake."""
    return handshake.awaits_consent(subscription, context.settings.handshake, infer_kind)


def read_create(document: Any, context: Context, *, id: str, now: float) -> tuple[core.Subscription, str | None]:
    """A new subscription without secrets, and the secret in the body. Raises InvalidRequest."""
    body = with_sink(validate(SubscriptionCreate, document))
    _refuse_placeholder(body.sink)
    config = body.config or SubscriptionConfig()
    _refuse_portal(config)
    subscription = _subscription(body, config, context, core.Subscription(id=id, sink=body.sink or "", created_at=now))
    return replace(subscription, start_at=start_seconds(config.start)), config.secret


def read_replace(document: Any, context: Context, before: core.Subscription) -> core.Subscription:
    """The subscription with new settings; state, secrets and start are kept. Raises InvalidRequest."""
    if is_shown(document, before.credential):
        document = {name: value for name, value in document.items() if name != "sinkcredential"}
    body = with_sink(validate(SubscriptionReplace, document))
    config = body.config or SubscriptionConfig()
    errors = []
    if config.secret is not None:
        detail = "a secret cannot be replaced here: use POST …/rotate-secret, which keeps the old one valid for a while"
        errors.append(FieldError(pointer="/config/secret", code="not_replaceable", detail=detail))
    if "start" in config.model_fields_set and (why := start_differs(config.start, before.start_at)) is not None:
        errors.append(FieldError(pointer="/config/start", code="not_replaceable", detail=why))
    if errors:
        raise invalid(*errors)
    if body.sink in (redacted_url(before.kind, before.sink), url_without_path(before.sink)):
        body = body.model_copy(update={"sink": before.sink})
        _refuse_showing_more(config, context, before)
    else:
        _refuse_placeholder(body.sink)
    if config.incidents == before.incidents == kind_named(before.kind).default_incidents:
        config = config.model_copy(update={"incidents": None})
    return with_portal(_subscription(body, _following(config, context, before), context, before), before)


def _refuse_portal(config: SubscriptionConfig) -> None:
    """Raises InvalidRequest for a portal, which is read-only."""
    if config.portal is not None:
        raise invalid(FieldError(pointer="/config/portal", code="unknown_field", detail="portal is read-only"))


def with_portal(subscription: core.Subscription, before: core.Subscription) -> core.Subscription:
    """The subscription with the portal that was found before, if it is reached as before."""
    portal = before.options.get(PORTAL)
    if portal is None or subscription.reached_by != before.reached_by:
        return subscription
    return replace(subscription, options={**subscription.options, PORTAL: portal})


def read_declared(body: DeclaredSubscription, context: Context, before: core.Subscription) -> core.Subscription:
    """The subscription with the declared settings, and nothing of those of `before`; its id, state, start and secrets
    are kept. Raises InvalidRequest."""
    _refuse_placeholder(with_sink(body).sink)
    _refuse_portal(body.config or SubscriptionConfig())
    bare = replace(before, headers=(), credential=None)
    return _subscription(body, _following(body.config or SubscriptionConfig(), context, before), context, bare)


def _following(config: SubscriptionConfig, context: Context, before: core.Subscription) -> SubscriptionConfig:
    """The settings without defaults that are sent back as shown: these keep following the relay's settings."""
    settings = context.settings
    if before.timeout_seconds is None and config.timeout_seconds == settings.default_timeout_seconds:
        config = config.model_copy(update={"timeout_seconds": None})
    if before.retry_schedule_seconds is None and config.retry_schedule == list(settings.default_retry_schedule_seconds):
        config = config.model_copy(update={"retry_schedule": None})
    return config


def _refuse_showing_more(config: SubscriptionConfig, context: Context, before: core.Subscription) -> None:
    """Raises InvalidRequest if the new kind would show a part of the stored URL that the old kind redacts."""
    kind = infer_kind(before.sink) if config.kind is None else config.kind
    if kind in kinds() and redacted_url(kind, before.sink) != redacted_url(before.kind, before.sink):
        shows = f"kind {kind} shows another part of the stored URL than {before.kind} does"
        detail = f"{shows}: send the whole sink, or config.kind {before.kind}"
        raise invalid(FieldError(pointer="/sink", code="redacted", detail=detail))


def _refuse_placeholder(sink: str | None) -> None:
    """Raises InvalidRequest for a shortened sink (`https://host/…`): events sent to it would be lost."""
    if sink is not None and sink.endswith("…"):
        detail = "this is a shortened sink, which no stored one is shown as: send the whole URL"
        raise invalid(FieldError(pointer="/sink", code="redacted", detail=detail))


def _subscription(
    body: SubscriptionCreate, config: SubscriptionConfig, context: Context, before: core.Subscription
) -> core.Subscription:
    settings = context.settings
    sink = body.sink or ""
    kind = infer_kind(sink) if config.kind is None else config.kind
    errors = _name_errors(body, kind, context)
    errors += _protocol_errors(body, kind)
    given_types, type_errors = event_types(body.types or (), context.known_types, "/types")
    errors += type_errors
    errors += _filter_errors(body)
    headers, header_errors = _headers(body, before)
    errors += header_errors
    if errors:
        raise invalid(*errors)
    options = options_of(body, config, kind)
    _check_sink(sink, kind, context)
    credential = _credential(body, context, before)
    errors = credential_errors(credential, headers)
    if errors:
        raise invalid(*errors)
    of_kind = kind_named(kind)
    incidents = of_kind.default_incidents if config.incidents is None else config.incidents
    all_origins = (settings.unrestricted or settings).origins.values()
    types = default_types = of_kind.default_types(tuple(all_origins))
    if body.types is not None and set(given_types or ()) != set(default_types or ()):
        types = given_types
    elif default_types is not None and incidents == "off":
        types = tuple(type for type in default_types if type not in INCIDENT_EVENTS)
    schedule, timeout_seconds = config.retry_schedule, config.timeout_seconds
    least_seconds = of_kind.timeout_seconds
    if timeout_seconds is None and least_seconds is not None and least_seconds > settings.default_timeout_seconds:
        timeout_seconds = least_seconds
    subscription = replace(
        before,
        sink=sink,
        kind=kind,
        types=types,
        incidents=incidents,
        source=body.source,
        filters=tuple(body.filters or ()),
        method="POST" if body.protocolsettings is None else body.protocolsettings.method,
        headers=headers,
        credential=credential,
        ordering=config.ordering,
        signature=config.signature,
        timeout_seconds=timeout_seconds,
        retry_schedule_seconds=None if schedule is None else tuple(schedule),
        rate_per_second=config.rate_per_second,
        concurrency=config.concurrency,
        handshake=config.handshake,
        description=body.description,
        options=options,
    )
    of_kind.check(subscription)
    return subscription


def with_sink(body: Body) -> Body:
    """The body, if it has a sink, or is of protocol PULL, which has none. Raises InvalidRequest."""
    is_pull = body.protocol == "PULL" or (body.config is not None and body.config.kind == PULL)
    if body.sink is None and not is_pull:
        detail = "a sink is needed, such as https://receiver.example/hooks; only protocol PULL has none"
        raise invalid(FieldError(pointer="/sink", code="required", detail=detail))
    if body.sink is not None and is_pull:
        detail = "protocol PULL has no sink: leave it out, or choose the protocol that the sink is for"
        raise invalid(FieldError(pointer="/sink", code="sink_unsuitable", detail=detail))
    return body


def _protocol_errors(body: SubscriptionCreate, kind: str) -> list[FieldError]:
    """Errors where protocol, scheme of the sink and kind do not agree, and for settings of other protocols."""
    of_sink = "PULL" if body.sink is None else protocol_of(body.sink) or "HTTP"
    of_kind = PROTOCOLS.get(kind, "HTTP")
    errors = []
    if body.protocol not in (None, of_sink):
        schemes = " or ".join(f"{one}://" for one in SCHEMES.get(body.protocol or "", ("https",)))
        detail = f"{body.protocol} is for sinks that begin with {schemes}; this one is of protocol {of_sink}"
        errors.append(FieldError(pointer="/protocol", code="protocol_mismatch", detail=detail))
    if of_kind != of_sink:
        detail = f"kind {kind[:100]} is of protocol {of_kind}, and the sink of {of_sink}: leave config.kind out"
        errors.append(FieldError(pointer="/config/kind", code="protocol_mismatch", detail=detail))
    if of_sink == "HTTP" and body.sinkcredential is not None and body.sinkcredential.credentialtype == "NKEY":
        pointer, detail = "/sinkcredential/credentialtype", "an NKEY is for NATS"
        errors.append(FieldError(pointer=pointer, code="credential_unsuitable", detail=detail))
    return errors


def _check_sink(sink: str, kind: str, context: Context) -> None:
    """Raises SinkRefused if the egress guard forbids this sink."""
    if kind == PULL:
        return
    if kind not in PROTOCOLS:
        check_sink(sink, context.settings, "/sink")
    elif (why := refusal_of_broker(sink, context.settings.guard)) is not None:
        raise SinkRefused(why, errors=[FieldError(pointer="/sink", code="sink_refused", detail=why)])


def options_of(body: SubscriptionCreate, config: SubscriptionConfig, kind: str) -> dict[str, Any]:
    """The fields that only some kinds have, and the switch for a dry run, as they are stored. Raises InvalidRequest."""
    given = body.protocolsettings or ProtocolSettings()
    found = read_fields(kind, "config", config.model_extra or {}, SubscriptionConfig.model_fields)
    settings = read_fields(kind, SETTINGS, given.model_extra or {}, ProtocolSettings.model_fields)
    return found | ({SETTINGS: settings} if settings else {}) | ({"dry_run": True} if config.dry_run else {})


def _credential(body: SubscriptionCreate, context: Context, before: core.Subscription) -> SinkCredential | None:
    """The credential that was given or, if none was, the stored one. Raises InvalidRequest."""
    given = body.sinkcredential
    if given is not None:
        now = context.dependencies.clock()
        return made_credential(given, body.sink or "", context.settings, id=new_id("crd", now), now=now)
    if before.credential is None or "sinkcredential" in body.model_fields_set:
        return None
    return kept_credential(before.credential, body.sink or "")


def _name_errors(body: SubscriptionCreate, kind: str, context: Context) -> list[FieldError]:
    """Errors for an unknown kind or source."""
    errors = []
    if kind not in kinds():
        detail = f"{kind[:100]!r} is not a kind of subscription{did_you_mean(kind, kinds())}"
        errors.append(FieldError(pointer="/config/kind", code="unknown_kind", detail=detail))
    sources = context.settings.event_sources
    if body.source is not None and body.source not in sources:
        takes_published = any(is_free_type(type, context.known_types) for type in body.types or ())
        if takes_published and not is_misspelt(body.source[:200], sources):
            return errors  # that of another program
        detail = f"no event has the source {body.source[:200]!r}{did_you_mean(body.source, sources)}"
        errors.append(FieldError(pointer="/source", code="unknown_source", detail=detail))
    return errors


def _filter_errors(body: SubscriptionCreate) -> Sequence[FieldError]:
    try:
        parse_filters(body.filters or ())
    except FiltersRefused as refused:
        return refused.errors
    return ()


def _headers(
    body: SubscriptionCreate, before: core.Subscription
) -> tuple[tuple[tuple[str, str], ...], list[FieldError]]:
    """The custom headers, and errors. A redacted value that is sent back keeps the stored value, but only for the same
    origin (scheme, host and port)."""
    given = (body.protocolsettings.headers if body.protocolsettings is not None else None) or {}
    shown = {name: header_view(name, value) for name, value in before.headers}
    origin = origin_of(body.sink or "")  # None: refused, or no HTTP
    elsewhere = origin is not None and origin != origin_of(before.sink)
    headers = tuple(
        (name, value if elsewhere or value != shown.get(name) else dict(before.headers)[name])
        for name, value in given.items()
    )
    again = "the sink has another scheme, host or port, so the stored value is not used: send the value again"
    placeholder = f"{REDACTED} is a placeholder: send the value itself"
    errors = [
        FieldError(
            pointer=pointer_of("protocolsettings", "headers", name),
            code="redacted",
            detail=again if name in shown else placeholder,
        )
        for name, value in headers
        if value == REDACTED
    ]
    why = check_custom_headers(headers)
    if why is not None:
        errors.append(FieldError(pointer="/protocolsettings/headers", code="invalid_header", detail=why))
    return headers, errors


CHECK = boolean(
    "check", "For CRMs and brokers: try the sink and its credential first. If they fail, store nothing.", default=True
)
CHECK_PROBLEMS = {429: "Too many sinks are being tried.", 502: "The sink does not answer, so nothing was stored."}


async def tried(call: Call, subscription: Subscription) -> Mapping[str, str] | None:
    """The facts that the sink tells; None if it was not asked. Raises CheckFailed, TooMany (this counts as a test of a
    subscription), and Unauthorized if the token was revoked meanwhile."""
    if not call.query["check"] or awaits_consent(subscription, call.context):
        return None
    if (found := broker_of(subscription)) is not None:
        with call.dependencies.admission.tests.held(call.caller):
            refused = refusal_of_dial(await call.dependencies.dial(*found), destination_of(subscription.kind))
        if refused is not None:
            raise refused
        return _still_allowed(call, {})
    steps = kind_named(subscription.kind).greeting(subscription, call.dependencies.clock())
    if steps is None:
        return None
    with call.dependencies.admission.tests.held(call.caller):
        facts = await call.dependencies.dispatcher.greet(subscription, steps)
    return _still_allowed(call, facts)


def _still_allowed(call: Call, facts: Mapping[str, str]) -> Mapping[str, str]:
    if not call.is_allowed:
        raise Unauthorized(TOKEN_GONE)
    return facts


def needs_check(after: Subscription, before: Subscription) -> bool:
    """True if a change makes what was tried before worthless, or asks for properties to be made."""
    return (after.kind, after.reached_by) != (before.kind, before.reached_by) or switches_on(after, before)


def same_place(one: Subscription, other: Subscription) -> bool:
    """True if both reach the same sink, and there the same place, with the same credential."""
    places = [(each.kind, each.sink, each.options.get(SETTINGS)) for each in (one, other)]
    return places[0] == places[1] and same_credential(one.credential, other.credential)
