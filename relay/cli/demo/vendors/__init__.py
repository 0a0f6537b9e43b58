"""Stand-ins for the endpoints of chat services and catch hooks, from their public documentation.

Each is stricter than the service: what the documentation does not name is refused, as the service refuses what is
wrong. They keep what they accept as people read it, limit the rate, and can be told to fail. One module per service;
`endpoint.py` is what they share.
"""

from collections.abc import Mapping
from types import MappingProxyType

from relay.cli.demo.vendors import catch_hook, discord, slack, slack_workflow, teams
from relay.cli.demo.vendors.endpoint import Vendor

VENDORS: Mapping[str, Vendor] = MappingProxyType(
    {
        "slack": slack.VENDOR,
        "slack_workflow": slack_workflow.VENDOR,
        "teams": teams.VENDOR,
        "discord": discord.VENDOR,
        "flat": catch_hook.VENDOR,
    }
)
"""By the kind of sink that they stand in for."""
