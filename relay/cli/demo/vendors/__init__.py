"""Stand-ins for the endpoints of chat services and catch hooks, from their public documentation.

Each is stricter than its service: it refuses what the documentation does not name, in the way in which the service
refuses a mistake. It keeps accepted messages as text that people read, limits the rate, and fails on demand. One module
per service; `endpoint.py` is what they share.
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
