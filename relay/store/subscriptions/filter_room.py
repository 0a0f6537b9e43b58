"""Limits the distinct comparisons in the filters of an owner's subscriptions, because each is evaluated for every event
that it may apply to.

They are counted in the transaction that changes subscriptions. It holds the lock CHANGE, so no other transaction, on
this node or another, adds comparisons meanwhile.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import select, text
from sqlalchemy.engine import Connection
from sqlmodel import col

from relay.core.subscriptions.filters import MAX_OWNER_COMPARISONS, filters_of
from relay.core.subscriptions.subscription import Subscription
from relay.errors import Conflict
from relay.store.databases.pages import unindexed
from relay.store.databases.statements import table_of
from relay.store.schema.tables import SubscriptionRow

_OWNER = unindexed(table_of(SubscriptionRow).c.owner)


class FilterRoom:
    """The comparisons of the owners that one transaction has read, by subscription."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keys: dict[str | None, dict[str, frozenset[str]]] = {}

    def change(self, owner: str | None, changes: Mapping[str, Subscription | None]) -> Conflict | None:
        """Replaces subscriptions of an owner; None: removes one. Returns an error, and changes nothing, if the number
        of comparisons would exceed both the limit and the current number."""
        changed = {id: _keys(one.filters) if one is not None else frozenset() for id, one in changes.items()}
        if owner not in self._keys and not any(changed.values()):
            return None
        before = self._of(owner)
        after = before | changed
        count = len(frozenset().union(*after.values()))
        if count > MAX_OWNER_COMPARISONS and count > len(frozenset().union(*before.values())):
            whose = "of the relay" if owner is None else f"of the account {owner}"
            many = f"the filters of all subscriptions {whose} would make {count:,} distinct comparisons"
            detail = f"{many}, and {MAX_OWNER_COMPARISONS:,} are allowed: use `in` for several values of one place"
            return Conflict(detail, code="too_many_comparisons")
        self._keys[owner] = after
        return None

    def _of(self, owner: str | None) -> dict[str, frozenset[str]]:
        found = self._keys.get(owner)
        if found is None:
            chosen = select(col(SubscriptionRow.id), col(SubscriptionRow.config)).where(
                text("callback = 0"), _OWNER.is_not_distinct_from(owner)
            )
            rows = self._connection.execute(chosen)
            found = self._keys[owner] = {row.id: _keys(row.config.get("filters") or ()) for row in rows}
        return found


def _keys(documents: Sequence[Mapping[str, object]]) -> frozenset[str]:
    filters = filters_of(documents)
    return frozenset() if filters is None else filters.keys
