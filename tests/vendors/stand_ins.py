"""Stand-ins for chat services, catch hooks and CRMs, from their public documentation.

Each is stricter than its service: it refuses what the documentation does not name, in the way in which the service
refuses a mistake. It keeps accepted messages as text that people read, limits the rate, and fails on demand. One module
per service; `endpoint.py` is what they share.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tests.vendors import catch_hook, discord, slack, slack_workflow, teams
from tests.vendors.endpoint import Vendor
from tests.vendors.hubspot import HubSpot
from tests.vendors.pipedrive import Pipedrive
from tests.vendors.salesforce import Salesforce

VENDORS: Mapping[str, Vendor] = MappingProxyType(
    {
        "slack": slack.VENDOR,
        "slack_workflow": slack_workflow.VENDOR,
        "teams": teams.VENDOR,
        "discord": discord.VENDOR,
        "flat": catch_hook.VENDOR,
    }
)
"""Endpoints, by the kind of sink that they stand in for."""

CRMS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {"pipedrive": Pipedrive, "hubspot": HubSpot, "salesforce": Salesforce}
)
"""Accounts of a customer at a CRM, which hold records. Also by the kind of sink."""
