"""Warnings about requests that are accepted: hosts that do not resolve."""

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from relay.api.http.dependencies import ApiDependencies

MAX_NAMED = 10
"""Hosts that an answer names."""


async def warnings_of_hosts(dependencies: "ApiDependencies", urls: Iterable[str], what: str) -> list[str]:
    """A sentence for each host of these URLs that does not resolve. `what`: the field that has them."""
    hosts = {urlsplit(url).hostname or "": None for url in dict.fromkeys(urls)}
    hosts.pop("", None)
    if not hosts:
        return []
    reasons = await dependencies.unresolved(hosts)
    found = [
        f"the host {host} of {what} does not resolve ({reason}). Its events are retried: check the name"
        for host, reason in reasons.items()
    ]
    more = len(found) - MAX_NAMED
    return found if more <= 0 else [*found[:MAX_NAMED], f"{more} more hosts of {what} do not resolve"]
