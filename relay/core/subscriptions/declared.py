"""Declared subscriptions: their ids, and how one that is declared differs from the stored one. Values only.

`relay/api/subscriptions/declared.py` plans with them, `SubscriptionStore.apply` carries a plan out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from relay.core.deliveries.credentials import SinkCredential
from relay.core.subscriptions.subscription import SETTINGS, SigningSecret, Subscription

Action = Literal["add", "change", "remove", "unchanged"]

MAX_DECLARED = 1_000
BY_ANYONE = "*"
"""`Subscription.declared` of one that a token without an account declared."""
RESERVED = frozenset({"apply", "preview"})
"""Ids whose paths are operations."""
ID_EXPECTED = "up to 64 letters, digits, dots, dashes and underscores, such as crm"
NOT_SETTINGS = frozenset(
    {
        *("id", "owner", "created_at", "start_at", "callback", "secrets", "state", "state_since", "state_reason"),
        *("consent", "handshake_at", "failing_since", "failing_reason", "paused_until", "probe_at", "drain_since"),
    }
)
"""Fields of a subscription that a declaration cannot change, and its secrets, which are compared by themselves."""

_ID = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})(@[A-Za-z0-9._-]+:[A-Za-z0-9._-]+)?", re.ASCII)
_RENAMED = {
    "method": "protocolsettings.method",
    "headers": "protocolsettings.headers",
    "credential": "sinkcredential",
    "retry_schedule_seconds": "config.retry_schedule",
}
_TOP = frozenset({"sink", "types", "source", "filters", "description", "declared"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The change of one subscription.

    before      as it is stored; None: it is added
    after       as it is declared; None: it is removed
    fields      the names of what changes, as in the API
    new_secret  the signing secret that replaces the present one
    pending     deliveries that a removal cancels; of many not all are counted
    """

    id: str
    action: Action
    before: Subscription | None = None
    after: Subscription | None = None
    fields: tuple[str, ...] = ()
    new_secret: str | None = field(default=None, repr=False)
    pending: int = 0


def pending_words(count: int) -> str:
    """A number of pending deliveries."""
    return "1 pending delivery" if count == 1 else f"{count:,} pending deliveries"


def problem_of_id(given: str, owner: str | None) -> str | None:
    """The reason why a declared subscription cannot have this id; None if it can. `owner`: the account it is limited
    to."""
    found = _ID.fullmatch(given)
    if found is None:
        return f"an id of your own choice has {ID_EXPECTED}"
    if given in RESERVED:
        return f"{given!r} is the path of an operation: choose another id"
    if found[2] is not None and found[2] != suffix_of(owner):
        return "an id that ends with @source:account is of a subscription limited to that account: choose another id"
    return None


def suffix_of(owner: str | None) -> str:
    """The end of each id that a token bound to this account declares, so that no two accounts share an id."""
    return "" if owner is None else "@" + owner.replace("/", ":")


def qualified(given: str, owner: str | None) -> str:
    """The id of a subscription that a token bound to this account declares."""
    return given if "@" in given else given + suffix_of(owner)


def same_credential(one: SinkCredential | None, other: SinkCredential | None) -> bool:
    """True if both are the credential that was given. The relay may have renewed the tokens of one of them."""
    if one is None or other is None:
        return one is other
    return one.id == other.id or (one.origin, one.fields) == (other.origin, other.fields)


def current_secret(secrets: Sequence[SigningSecret]) -> str | None:
    """The signing secret that has not been rotated out."""
    return next((secret.value for secret in secrets if secret.expires_at is None), None)


def changed_fields(before: Subscription, after: Subscription) -> tuple[str, ...]:
    """The settings that differ, by their names in the API."""
    names: list[str] = []
    for each in fields(Subscription):
        name = each.name
        one, other = getattr(before, name), getattr(after, name)
        if name in NOT_SETTINGS or one == other or (name == "credential" and same_credential(one, other)):
            continue
        if name == "types" and one is not None and other is not None and set(one) == set(other):
            continue
        if name == "options":
            keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
            names += [key if key == SETTINGS else f"config.{key}" for key in keys]
        else:
            names.append(_RENAMED.get(name) or (name if name in _TOP else f"config.{name}"))
    return tuple(names)
