"""The settings of the dashboard."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Who signs users in, beside the relay itself.

    user_header  in which a trusted proxy names the user; None: no proxy does
    user_scopes  of those users
    """

    user_header: str | None = None
    user_scopes: frozenset[str] = frozenset()
