"""Tries the sink and the credential of a subscription before it is stored, for kinds that have a way to: CRMs and
brokers.

Nothing holds a transaction meanwhile. A subscription that waits for its sink's consent is not tried.
"""

from collections.abc import Mapping

from relay.api.http.auth import TOKEN_GONE
from relay.api.http.operations import Call
from relay.api.http.params import boolean
from relay.api.subscriptions.checks import awaits_consent
from relay.api.subscriptions.kind_fields import destination_of, switches_on
from relay.core.subscriptions.declared import same_credential
from relay.core.subscriptions.handshake import refusal_of_dial
from relay.core.subscriptions.subscription import SETTINGS, Subscription
from relay.errors import Unauthorized
from subscribers.registry import broker_of, kind_named

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
        with call.ports.admission.tests.held(call.caller):
            refused = refusal_of_dial(await call.ports.dial(*found), destination_of(subscription.kind))
        if refused is not None:
            raise refused
        return _still_allowed(call, {})
    steps = kind_named(subscription.kind).greeting(subscription, call.ports.clock())
    if steps is None:
        return None
    with call.ports.admission.tests.held(call.caller):
        facts = await call.ports.dispatcher.greet(subscription, steps)
    return _still_allowed(call, facts)


def _still_allowed(call: Call, facts: Mapping[str, str]) -> Mapping[str, str]:
    if not call.is_allowed:
        raise Unauthorized(TOKEN_GONE)
    return facts


def needs_check(after: Subscription, before: Subscription) -> bool:
    """True if a change makes what was tried before worthless, or asks for properties to be made."""
    if (after.kind, after.reached_by) != (before.kind, before.reached_by):
        return True
    return switches_on(after, before)


def same_place(one: Subscription, other: Subscription) -> bool:
    """True if both reach the same sink, and there the same place, with the same credential."""
    settings = one.options.get(SETTINGS) == other.options.get(SETTINGS)
    return (
        settings
        and (one.kind, one.sink) == (other.kind, other.sink)
        and same_credential(one.credential, other.credential)
    )
