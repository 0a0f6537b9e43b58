"""A subscription as a row. Its sink, headers and credential are encrypted in one column."""

import hashlib
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.deliveries.credentials import SinkCredential
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Consent, SigningSecret, Subscription
from relay.errors import NotFound
from relay.store.databases.database import Cipher, Database
from relay.store.rows import loads
from relay.store.schema.tables import SubscriptionRow

OF_THE_SINK = ("failing_since", "failing_reason", "paused_until")
OF_ITS_STATE = ("state", "state_since", "state_reason", "probe_at", "drain_since", "handshake_at")
FIXED = ("id", "created_at", "start_at", "owner")
_PLAIN = (*FIXED, *OF_ITS_STATE, *OF_THE_SINK, "kind", "source", "description")
"""Columns that hold an attribute as it is."""
_CONFIG = (
    *("method", "ordering", "signature", "handshake", "timeout_seconds", "retry_schedule_seconds", "rate_per_second"),
    *("concurrency", "incidents", "declared", "filters"),
)


def values_of(cipher: Cipher, subscription: Subscription) -> dict[str, Any]:
    """The columns of a subscription."""
    sealed: dict[str, Any] = {"sink": subscription.sink, "headers": subscription.headers}
    credential = subscription.credential
    if credential is not None:
        sealed["credential"] = [credential.id, credential.origin, credential.fields]
    return {
        **{name: getattr(subscription, name) for name in _PLAIN},
        "sink_digest": digest(subscription.sink, subscription.owner),
        "sealed": cipher.encrypt(dumps(sealed), context=subscription.id),
        "types": None if subscription.types is None else list(subscription.types),
        "callback": int(subscription.callback),
        "config": {
            **{name: getattr(subscription, name) for name in _CONFIG},
            "options": dict(subscription.options),
        },
    }


def subscription_from(cipher: Cipher, row: Row[Any], secrets: tuple[SigningSecret, ...]) -> Subscription:
    """A subscription, from its row and its secrets."""
    sealed = loads(cipher.decrypt(row.sealed, context=row.id))
    config = {"signature": "v1", "handshake": "off", "incidents": "off", "declared": None, "filters": (), **row.config}
    if row.callback:  # callbacks use the relay's own settings; old rows hold those of the day they were created
        config = {**config, "timeout_seconds": None, "retry_schedule_seconds": None}
    schedule = config["retry_schedule_seconds"]
    given = sealed.get("credential")
    return Subscription(
        **{name: getattr(row, name) for name in _PLAIN},
        **{name: config[name] for name in (*_CONFIG, "options") if name not in ("retry_schedule_seconds", "filters")},
        filters=tuple(config["filters"]),
        retry_schedule_seconds=None if schedule is None else tuple(schedule),
        sink=sealed["sink"],
        headers=tuple((name, value) for name, value in sealed["headers"]),
        credential=None if given is None else SinkCredential(id=given[0], origin=given[1], fields=given[2]),
        types=None if row.types is None else tuple(row.types),
        callback=bool(row.callback),
        consent=None if row.consent is None else Consent(**row.consent),
        secrets=secrets,
    )


def locked(connection: Connection, subscription_id: str) -> Row[Any] | None:
    """The row, locked to the end of the transaction."""
    of_it = select(SubscriptionRow).where(col(SubscriptionRow.id) == subscription_id)
    return connection.execute(of_it.with_for_update()).one_or_none()


async def refuse_hidden(database: Database, owner: str | None, subscription_id: str) -> None:
    """Raises NotFound if only the rows of this owner may be seen, and the subscription is none of them."""
    if owner is not None and await database.read(_owner_of, subscription_id) != owner:
        raise not_found(subscription_id)


def _owner_of(connection: Connection, subscription_id: str) -> str | None:
    of_it = select(col(SubscriptionRow.owner)).where(col(SubscriptionRow.id) == subscription_id)
    return connection.execute(of_it).scalar_one_or_none()


def digest(sink: str, owner: str | None = None) -> str:
    """The key by which a sink is looked up; an owner has its own."""
    key = sink if owner is None else f"{sink}\n{owner}"
    return hashlib.sha256(key.encode()).hexdigest()


def not_found(subscription_id: str) -> NotFound:
    """The error where there is no such subscription."""
    return NotFound(f"there is no subscription {subscription_id}", code="subscription_not_found")
