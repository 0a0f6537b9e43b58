"""Why a subscription does not get an event, in a sentence. Values only."""

from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription

MAX_TYPES_NAMED = 5


def why_not(subscription: Subscription, event: Event, owner: str | None) -> str | None:
    """Why type, source or account keep an event from a subscription; None if they let it through, as `matches` says.
    `owner`: the account that the event is about."""
    if subscription.callback:
        return "a callback gets only the events of the jobs that were registered with it"
    if subscription.owner not in (None, owner):
        return f"it is limited to the account {subscription.owner}, and the event is not about that account"
    if subscription.source is not None and subscription.source != event.source:
        return f"its source is {subscription.source}, and that of the event is {event.source}"
    if subscription.wants(event.type, job_event=event.job_uid is not None):
        return None
    wanted = subscription.wanted_types
    if wanted is None:
        return f"it has no types, so it gets all job events and no others, and the event is {event.type}"
    named = ", ".join(wanted[:MAX_TYPES_NAMED])
    more = f" and {len(wanted) - MAX_TYPES_NAMED} more" if len(wanted) > MAX_TYPES_NAMED else ""
    return f"its types are {named}{more}, and that of the event is {event.type}"
