"""The bodies of creates in a campaign."""

from collections.abc import Mapping
from typing import Any

from relay.sandbox.bodies import dispatch_body


def campaign_body(index: int, accounts: Mapping[str, str]) -> dict[str, Any]:
    """The body of dispatch number `index` (from 0), sent from the account of its channel. Without a spacing: in a fast
    world its seconds would not be those of the lanes."""
    body = dispatch_body(index)
    del body["min_channel_task_interval_seconds"]
    return {**body, "account_id": accounts.get(body["channel"], body["account_id"])}
