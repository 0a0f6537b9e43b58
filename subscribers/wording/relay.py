"""Events about sources, subscriptions, deliveries and creates in words."""

from collections.abc import Callable, Mapping

from relay.core.deliveries.ledger import DOUBTS
from relay.core.events.event import CREATE_UNKNOWN, DELIVERY_EXPIRED, DELIVERY_UNCERTAIN, SUBSCRIPTION_DISABLED
from relay.core.events.sentences import cause_of_unknown, continued, titled, with_article
from relay.redaction import redacted_url
from subscribers.base import RenderContext
from subscribers.wording.jobs import job_event_kind
from subscribers.wording.text import (
    DEFAULT_ACCOUNT,
    Document,
    account_of,
    command,
    mapping,
    one_line,
    upstream_of,
    without_addresses,
    word,
)


def relay_sentence(type: str, data: Document, context: RenderContext) -> str | None:
    """What happened, in one sentence without the full stop; None for other types."""
    tell = _SENTENCES.get(type)
    return None if tell is None else tell(data, context)


def relay_fix(type: str, data: Document) -> str:
    """How to fix it; empty if nothing is known."""
    fix = _FIXES.get(type)
    return "" if fix is None else fix(data)


def subscription_of(data: Document) -> str:
    """A subscription and its sink."""
    return f"{one_line(data.get('subscription'))} to {redacted_url(one_line(data.get('sink')))}"


def _unauthorized(data: Document, context: RenderContext) -> str:
    return f"{upstream_of(data)} refuses the API key{_of_account(data, context)}{_why(data)}{_waiting(data)}"


def _down(data: Document, context: RenderContext) -> str:
    sentence = f"{upstream_of(data)} does not answer"
    why = "" if mapping(data.get("hint")).get("meaning") == sentence else _why(data)
    return f"{sentence}{_for_account(data, context)}{why}{_waiting(data)}"


def _source_recovered(data: Document, context: RenderContext) -> str:
    return f"{upstream_of(data)} answers again{_for_account(data, context)}"


def _waiting(data: Document) -> str:
    waiting = data.get("open_jobs")
    if not isinstance(waiting, int) or not waiting:
        return ""
    return ". 1 open job waits" if waiting == 1 else f". {waiting} open jobs wait"


def _disabled(data: Document, _: RenderContext) -> str:
    reason = without_addresses(data.get("reason")).rstrip(".! ")
    because = f": {reason}" if reason else ""
    return f"Subscription {subscription_of(data)} was disabled{because}. Its events are kept until it is enabled again"


def _recovered(data: Document, _: RenderContext) -> str:
    return f"Subscription {subscription_of(data)} takes events again"


def _expired(data: Document, _: RenderContext) -> str:
    attempts = data.get("attempts")
    tries = f" after {attempts} attempt{'' if attempts == 1 else 's'}" if isinstance(attempts, int) else ""
    last = without_addresses(data.get("last_error")) or without_addresses(data.get("reason"))
    type = one_line(data.get("event_type"))
    event = f"{job_event_kind(type) or type} event to subscription {one_line(data.get('subscription'))}"
    return f"Delivery of one {event} was given up{tries}" + (f": {last}" if last else "")


def _uncertain(data: Document, _: RenderContext) -> str:
    what, where = with_article(word(data.get("record")) or "record"), titled(word(data.get("kind"))) or "the CRM"
    type = one_line(data.get("event_type"))
    about = f" about one {job_event_kind(type) or type} event" if type else ""
    last = without_addresses(data.get("last_error"))
    last = DOUBTS.get(last, last)
    return f"{what[0].upper()}{what[1:]} in {where}{about} may or may not have been written" + (
        f": {last}" if last else ""
    )


def _create_unknown(data: Document, context: RenderContext) -> str:
    channel = titled(word(data.get("channel")))
    what = f"{channel} message" if channel else "request"
    why = cause_of_unknown(str(data.get("cause")), upstream_of(data))
    return f"It is unknown whether a {what}{_for_account(data, context)} was sent" + (f": {why}" if why else "")


def _test(data: Document, _: RenderContext) -> str:
    return without_addresses(data.get("message")).rstrip(".") or "This is a test of the relay"


_SENTENCES: Mapping[str, Callable[[Document, RenderContext], str]] = {
    "relay.source.unauthorized": _unauthorized,
    "relay.source.down": _down,
    "relay.source.recovered": _source_recovered,
    "relay.subscription.disabled": _disabled,
    "relay.subscription.recovered": _recovered,
    "relay.delivery.expired": _expired,
    DELIVERY_UNCERTAIN: _uncertain,
    "relay.create.unknown": _create_unknown,
    "relay.test": _test,
}


def _create_fix(data: Document) -> str:
    if data.get("idempotency_key_given") is True:
        return "Send the same request again with the same Idempotency-Key: that is safe"
    check = f"Check in {upstream_of(data)} whether it went out, and send it again only if it did not"
    intent = word(data.get("intent"))
    return f"{check}. Then run: relay intents resolve {intent} --fate sent (or not_sent)" if intent else check


def _then(text: str, id: object) -> str:
    run = command(text, id)
    return f"Fix the receiver, then run: {run}" if run else ""


_FIXES: Mapping[str, Callable[[Document], str]] = {
    CREATE_UNKNOWN: _create_fix,
    SUBSCRIPTION_DISABLED: lambda data: _then("relay subscriptions resume", data.get("subscription")),
    DELIVERY_EXPIRED: lambda data: _then("relay deliveries retry", data.get("delivery")),
    DELIVERY_UNCERTAIN: lambda data: one_line(data.get("fix")),
}


def _of_account(data: Document, context: RenderContext) -> str:
    return f" of account {account_of(data.get('account'), context) or DEFAULT_ACCOUNT}"


def _for_account(data: Document, context: RenderContext) -> str:
    return f" for account {account_of(data.get('account'), context) or DEFAULT_ACCOUNT}"


def _why(data: Document) -> str:
    """The meaning of the error, else the reason in the event."""
    hint = mapping(data.get("hint"))
    meaning = (without_addresses(hint.get("meaning")) or without_addresses(data.get("reason"))).rstrip(".! ")
    return f": {continued(meaning, str(data.get('source')))}" if meaning else ""
