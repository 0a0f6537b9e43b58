"""Example requests that create jobs in the sandbox, as a user would send them."""

from collections.abc import Mapping
from typing import Any

from relay.sandbox.connect_accounts import CHANNELS, PLACEHOLDER_ACCOUNT_ID
from relay.sandbox.world import MIN_INTERVAL_SECONDS

DISPATCH_PATH = "/api/v1/outreach/dispatches"
_RECIPIENTS = {
    "email": {"address": "ada@example.com"},
    "linkedin": {"profile_url": "https://www.linkedin.com/in/example/"},
    "whatsapp": {"phone": "+14155550100"},
}


def dispatch_body(index: int) -> dict[str, Any]:
    """The body of dispatch number `index` (from 0). The channels take turns; lanes are spaced by the minimum."""
    return {
        **campaign_body(index, {}),
        "min_channel_task_interval_seconds": MIN_INTERVAL_SECONDS,
    }


def campaign_body(index: int, accounts: Mapping[str, str]) -> dict[str, Any]:
    """The same with the accounts to send from, by channel, and without a spacing: in a fast world its seconds would not
    be those of the lanes."""
    channel = CHANNELS[index % len(CHANNELS)]
    return {
        "account_id": accounts.get(channel, PLACEHOLDER_ACCOUNT_ID),
        "channel": channel,
        "action": "outreach",
        "recipient": _RECIPIENTS[channel],
        "content": {"text": f"Hello from the demo, message {index + 1}"},
    }
