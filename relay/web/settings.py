"""The settings of the dashboard."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Sign-in by a trusted proxy.

    user_header  header in which the proxy names the user; None: there is no such proxy
    user_scopes  scopes of those users
    """

    user_header: str | None = None
    user_scopes: frozenset[str] = frozenset()
