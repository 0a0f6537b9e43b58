"""Tries a sink and its credential before a subscription is stored: sends what its kind greets with."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from relay.clock import Clock
from relay.core import greeting
from relay.core.dialogue import Memory, Step, Steps
from relay.core.subscription import Subscription
from relay.delivery.credentials import Credentials, Sent
from relay.delivery.dialogues import FAILED, converse

if TYPE_CHECKING:
    from relay.http.sender import Transport

STEP_SECONDS = 15.0
"""Time limit of one request, with the token that it needs."""
ALL_SECONDS = 60.0
"""Time limit of all of them: HubSpot's are up to 17."""


async def greet(
    subscription: Subscription, steps: Steps, *, credentials: Credentials, transport: "Transport", clock: Clock
) -> Mapping[str, str]:
    """The facts that the sink tells; none if there is no token to try. Nothing is stored. Raises CheckFailed.

    credentials  of this trial alone: a token for a credential that may never be stored must not replace another one
    """
    tried = subscription
    if subscription.credential is not None:
        credential = greeting.trial(subscription.credential, clock())
        if credential is None:
            steps.close()
            return {}
        tried = replace(subscription, credential=credential)

    async def send(step: Step, seconds: float) -> Sent:
        limit = min(seconds, STEP_SECONDS)
        if tried.credential is not None:
            return await credentials.send(tried, step.request, limit)
        return Sent(headers=(), response=await transport.send(step.request, timeout_seconds=limit))

    async def save(remember: Memory | None, share: Memory | None) -> bool:
        return True

    sent = await converse(lambda: steps, send, save, ALL_SECONDS, clock, "greeting")
    refused = greeting.refusal(sent.outcome or FAILED, sent.response)
    if refused is not None:
        raise refused
    return greeting.facts_of(sent.remember)
