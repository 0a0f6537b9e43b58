"""Tests a sink and its credential before a subscription is stored: sends the greeting requests of its kind."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from relay.clock import Clock
from relay.core.deliveries.dialogue import Memory, Step, Steps
from relay.core.subscriptions import greeting
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.credentials import Credentials, Sent
from relay.delivery.dialogues import FAILED, converse

if TYPE_CHECKING:
    from relay.http.sender import Transport

STEP_SECONDS = 15.0
"""Time limit of one request, including its token."""
ALL_SECONDS = 60.0
"""Time limit of all requests: HubSpot needs up to 17."""


async def greet(
    subscription: Subscription, steps: Steps, *, credentials: Credentials, transport: "Transport", clock: Clock
) -> Mapping[str, str]:
    """Facts read from the sink; none without a token to test. Stores nothing. Raises CheckFailed.

    credentials  separate for this trial: its token must not replace that of a stored credential
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
