"""Events about sources, subscriptions, deliveries and creates in words."""

from collections.abc import Mapping

from relay.core.deliveries.ledger import DOUBTS
from relay.core.events.event import job_event_kind
from relay.core.events.sentences import (
    cause_of_unknown,
    continued,
    counted,
    create_fix,
    failure,
    sink_fix,
    subscription_to,
    titled,
    uncertain_fix,
    with_article,
)
from relay.core.turns import turn_of, turn_of_sink
from relay.redaction import redacted_url
from subscribers.base import RenderContext
from subscribers.wording.jobs import whom
from subscribers.wording.text import (
    DEFAULT_ACCOUNT,
    Document,
    account_of,
    count,
    mapping,
    one_line,
    upstream_of,
    without_addresses,
    word,
)

_MAX_TARGETS = 5


def relay_sentence(type: str, data: Document, context: RenderContext) -> str | None:
    """The event in one sentence without the full stop; None for other types."""
    upstream = upstream_of(data, context)
    account = "" if data.get("account") == DEFAULT_ACCOUNT else account_of(data.get("account"), context)
    of, for_ = (f" {word} account {account}" if account else "" for word in ("of", "for"))
    match type:
        case "relay.source.unauthorized":
            return f"{upstream} refuses the API key{of}{_why_refused(data, upstream)}{_waiting(data)}"
        case "relay.source.down":
            sentence = f"{upstream} does not answer"
            return f"{sentence}{for_}{_why(data, upstream, said=sentence)}{_waiting(data)}"
        case "relay.source.recovered":
            return f"{upstream} answers again{for_}"
        case "relay.credits.low":
            left = data.get("available")
            amount = f"only {left:,.15g} credits left" if isinstance(left, int | float) else "few credits left"
            return f"The {upstream} account{account and f' {account}'} has {amount}"
        case "relay.subscription.disabled":
            because = _after_colon(failure(without_addresses(data.get("reason")).rstrip(".! ")))
            return f"{subscription_of(data)} was disabled{because}. Its events are kept"
        case "relay.subscription.recovered":
            return f"{subscription_of(data)} takes events again"
        case "relay.delivery.expired":
            return _expired(data)
        case "relay.delivery.uncertain":
            return _uncertain(data)
        case "relay.create.unknown":
            channel = titled(word(data.get("channel")))
            what = f"{channel} message" if channel else "request"
            to = whom({"data": data}, context.search_keys)
            because = _after_colon(cause_of_unknown(str(data.get("cause")), upstream))
            return f"It is unknown whether a {what}{to}{for_} was sent{because}"
        case "relay.test":
            return without_addresses(data.get("message")).rstrip(".") or "This is a test of the relay"
    return None


def relay_fix(type: str, data: Document, context: RenderContext) -> tuple[str, str]:
    """The next step, and whose turn it is; empty if nothing is known."""
    match type:
        case "relay.create.unknown":
            fix = create_fix(upstream_of(data, context), has_key=data.get("idempotency_key_given") is True)
            return fix, turn_of("creates")
        case "relay.subscription.disabled":
            return sink_fix(_reason(data), "resume the subscription"), turn_of_sink(_reason(data))
        case "relay.delivery.expired":
            return sink_fix(_reason(data), "send the event again"), turn_of_sink(_reason(data))
        case "relay.delivery.uncertain":
            return _uncertain_fix(data), turn_of("uncertain")
    return "", ""


def subscription_of(data: Document) -> str:
    """`The subscription to crm.example`."""
    return subscription_to(redacted_url(one_line(data.get("sink"))), one_line(data.get("subscription")))


def _waiting(data: Document) -> str:
    waiting = count(data.get("open_jobs"))
    return f". {counted(waiting, 'open job')} {'waits' if waiting == 1 else 'wait'}" if waiting else ""


def _expired(data: Document) -> str:
    attempts = count(data.get("attempts"))
    tries = f" after {counted(attempts, 'attempt')}" if attempts else ""
    what = _told(one_line(data.get("event_type")))
    return f"An event{what} could not be delivered{tries}{_after_colon(failure(_reason(data)))}"


def _reason(data: Document) -> str:
    return without_addresses(data.get("last_error")) or without_addresses(data.get("reason"))


def _told(type: str) -> str:
    """` about a failed job` for `ai.revor.job.failed`. A type of another program stays whole."""
    kind = job_event_kind(type) if ".job." in type else None
    if kind is None:
        return f" of type {type}" if type else ""
    return f" about {_JOBS.get(kind) or with_article(f'{kind} job')}"


_JOBS: Mapping[str, str] = {
    "succeeded": "a job that was accepted",
    "not_found": "a job that was not found",
    "status_unknown": "a job of unknown status",
    "retrying": "a job that is tried again",
    "progress": "the progress of a job",
}


def _uncertain(data: Document) -> str:
    what, where = with_article(word(data.get("record")) or "record"), titled(word(data.get("kind"))) or "the CRM"
    last = without_addresses(data.get("last_error"))
    because = _after_colon(DOUBTS.get(last) or failure(last))
    about = _told(one_line(data.get("event_type")))
    return f"{what[0].upper()}{what[1:]} in {where}{about} may or may not have been written{because}"


def _uncertain_fix(data: Document) -> str:
    target = list(mapping(data.get("target")).items())[:_MAX_TARGETS]
    return uncertain_fix(
        titled(word(data.get("kind"))) or "the CRM",
        word(data.get("record")),
        [(word(key), word(str(id))) for key, id in target],
        job=one_line(data.get("job"), 200),
        event=word(data.get("event")),
    )


def _why(data: Document, upstream: str, *, said: str) -> str:
    """The meaning of the error, else the reason in the event; empty if it is what was said."""
    hint = mapping(data.get("hint"))
    meaning = (without_addresses(hint.get("meaning")) or without_addresses(data.get("reason"))).rstrip(".! ")
    return "" if meaning == said else _after_colon(meaning and continued(meaning, f"{upstream} {data.get('source')}"))


def _why_refused(data: Document, upstream: str) -> str:
    """The same of a key, which the sentence has named."""
    why = _why(data, upstream, said=f"{upstream} refuses the API key")
    return why.replace(f": the {upstream} API key ", ": it ", 1)


def _after_colon(text: str) -> str:
    return f": {text}" if text else ""
