"""Stores limited to one account, for tokens that are bound to it.

The limit is part of the store, not of its callers: `within` returns the same store with an account, and every method
that a caller can reach another account's rows through adds it to its conditions. A row of another account is then
answered exactly like one that does not exist.
"""

from copy import copy
from typing import TypeVar

from relay.core.events.event import owner_of

Account = tuple[str, str]
"""Its source and its name."""

Self = TypeVar("Self", bound="Scoped")


class Scoped:
    """A store that can be limited to one account."""

    _account: Account | None = None

    def within(self: Self, account: Account) -> Self:
        """This store as a token bound to the account sees it."""
        view = copy(self)
        view._account = account
        return view

    @property
    def _owner(self) -> str | None:
        """The `owner` of the rows that may be seen; None: all may."""
        return None if self._account is None else owner_of(*self._account)

    def _sees(self, owner: str | None) -> bool:
        return self._account is None or owner == owner_of(*self._account)
