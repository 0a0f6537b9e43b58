"""Events about sources, subscriptions, deliveries and creates in words."""

from relay.core.deliveries.ledger import DOUBTS
from relay.core.events.event import job_event_kind
from relay.core.events.sentences import cause_of_unknown, continued, titled, with_article
from relay.redaction import redacted_url
from subscribers.base import RenderContext
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
    """The event in one sentence without the full stop; None for other types."""
    upstream, account = upstream_of(data), account_of(data.get("account"), context) or DEFAULT_ACCOUNT
    match type:
        case "relay.source.unauthorized":
            return f"{upstream} refuses the API key of account {account}{_why(data)}{_waiting(data)}"
        case "relay.source.down":
            sentence = f"{upstream} does not answer"
            why = "" if mapping(data.get("hint")).get("meaning") == sentence else _why(data)
            return f"{sentence} for account {account}{why}{_waiting(data)}"
        case "relay.source.recovered":
            return f"{upstream} answers again for account {account}"
        case "relay.credits.low":
            left = data.get("available")
            amount = f": {left:,.15g} left" if isinstance(left, int | float) else ""
            return f"Credits of {upstream} account {account} are low{amount}"
        case "relay.subscription.disabled":
            because = _after_colon(without_addresses(data.get("reason")).rstrip(".! "))
            sentence = f"Subscription {subscription_of(data)} was disabled{because}"
            return f"{sentence}. Its events are kept until it is enabled again"
        case "relay.subscription.recovered":
            return f"Subscription {subscription_of(data)} takes events again"
        case "relay.delivery.expired":
            return _expired(data)
        case "relay.delivery.uncertain":
            return _uncertain(data)
        case "relay.create.unknown":
            channel = titled(word(data.get("channel")))
            what = f"{channel} message" if channel else "request"
            because = _after_colon(cause_of_unknown(str(data.get("cause")), upstream))
            return f"It is unknown whether a {what} for account {account} was sent{because}"
        case "relay.test":
            return without_addresses(data.get("message")).rstrip(".") or "This is a test of the relay"
    return None


def relay_fix(type: str, data: Document) -> str:
    """The remedy; empty if nothing is known."""
    match type:
        case "relay.create.unknown":
            return _create_fix(data)
        case "relay.subscription.disabled":
            return _then("relay subscriptions resume", data.get("subscription"))
        case "relay.delivery.expired":
            return _then("relay deliveries retry", data.get("delivery"))
        case "relay.delivery.uncertain":
            return one_line(data.get("fix"))
    return ""


def subscription_of(data: Document) -> str:
    """A subscription and its sink."""
    return f"{one_line(data.get('subscription'))} to {redacted_url(one_line(data.get('sink')))}"


def _waiting(data: Document) -> str:
    waiting = data.get("open_jobs")
    if not isinstance(waiting, int) or not waiting:
        return ""
    return ". 1 open job waits" if waiting == 1 else f". {waiting} open jobs wait"


def _expired(data: Document) -> str:
    attempts = data.get("attempts")
    tries = f" after {attempts} attempt{'' if attempts == 1 else 's'}" if isinstance(attempts, int) else ""
    last = without_addresses(data.get("last_error")) or without_addresses(data.get("reason"))
    type = one_line(data.get("event_type"))
    event = f"{_kind_or(type)} event to subscription {one_line(data.get('subscription'))}"
    return f"Delivery of one {event} was given up{tries}{_after_colon(last)}"


def _kind_or(type: str) -> str:
    """`failed` for `ai.revor.job.failed`. A type of another program stays whole."""
    return (job_event_kind(type) if ".job." in type else None) or type


def _uncertain(data: Document) -> str:
    what, where = with_article(word(data.get("record")) or "record"), titled(word(data.get("kind"))) or "the CRM"
    type = one_line(data.get("event_type"))
    about = f" about one {_kind_or(type)} event" if type else ""
    last = without_addresses(data.get("last_error"))
    because = _after_colon(DOUBTS.get(last, last))
    return f"{what[0].upper()}{what[1:]} in {where}{about} may or may not have been written{because}"


def _create_fix(data: Document) -> str:
    if data.get("idempotency_key_given") is True:
        return "Send the same request again with the same Idempotency-Key: that is safe"
    check = f"Check in {upstream_of(data)} whether it went out, and send it again only if it did not"
    intent = word(data.get("intent"))
    return f"{check}. Then run: relay intents resolve {intent} --fate sent (or not_sent)" if intent else check


def _then(text: str, id: object) -> str:
    run = command(text, id)
    return f"Fix the receiver, then run: {run}" if run else ""


def _why(data: Document) -> str:
    """The meaning of the error, else the reason in the event."""
    hint = mapping(data.get("hint"))
    meaning = (without_addresses(hint.get("meaning")) or without_addresses(data.get("reason"))).rstrip(".! ")
    return _after_colon(meaning and continued(meaning, str(data.get("source"))))


def _after_colon(text: str) -> str:
    return f": {text}" if text else ""
