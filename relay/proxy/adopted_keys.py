"""Adopted accounts: made from a caller's own key once the upstream has accepted a create with it."""

import hashlib
from collections.abc import Mapping

from relay.config.fields import is_header_text
from relay.config.settings import AccountSettings, Settings

MAX_ADOPTED = 1_000

Adopted = Mapping[tuple[str, str], str]
"""API keys by (source, account name)."""


def name_of(api_key: str) -> str:
    """The name of the account adopted for this key. Derived from a digest, so it reveals nothing about the key."""
    return f"key-{hashlib.sha256(api_key.encode()).hexdigest()[:16]}"


def with_adopted(settings: Settings, adopted: Adopted) -> Settings:
    """The settings with the adopted accounts added. Configured accounts take precedence."""
    sources = dict(settings.sources)
    for (source, name), api_key in adopted.items():
        if source in sources and name not in sources[source].accounts and is_header_text(api_key):
            accounts = {**sources[source].accounts, name: AccountSettings(name=name, api_key=api_key)}
            sources[source] = sources[source].replace(accounts=accounts)
    return settings.replace(sources=sources)
