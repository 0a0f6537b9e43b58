"""Subscriptions and their secrets. Whatever can be a credential (sink, custom headers, sinkcredential, secrets) is
encrypted."""

import asyncio
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from sqlalchemy import Select, delete, insert, select, text, update
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.credentials import SinkCredential, stored_token
from relay.core.filters import matches
from relay.core.handshake import WAITS
from relay.core.jsontext import dumps
from relay.core.records import Page, RefreshTurn
from relay.core.subscription import Consent, SigningSecret, Subscription
from relay.errors import Conflict, NotFound
from relay.ids import new_id
from relay.store.cancellation import CANCEL_CHUNK, cancel_some
from relay.store.database import Database
from relay.store.group_commit import each, in_order_of
from relay.store.notices import notify
from relay.store.ordering import jobs_of_subscription, reorder
from relay.store.outbox import (
    INSERT_DELIVERY,
    Outbox,
    delivery_values,
    open_pairs,
)
from relay.store.pages import decode_cursor, read_page
from relay.store.rows import event_from, loads
from relay.store.scoped import Scoped
from relay.store.statements import run, run_many, sql
from relay.store.subscription_cache import READ_AT_ONCE, VERSION
from relay.store.tables import EventRow, SecretRow, SubscriptionRow

CALLBACK_OWNER = "callbacks"
SIGNING_OWNER = "signing"
AUDIT_OWNER = "audit"
MAX_SECRETS = 10
"""Valid secrets of an owner: each adds a signature to every request."""
BACKFILL_CHUNK = 1_000
# The first event since a time. `+ 0` keeps PostgreSQL from walking the positions from the oldest event on.
FIRST_POSITION = "SELECT MIN(position + 0) FROM events WHERE recorded_at >= :since"
# Deletes a callback's links to jobs.
DELETE_CALLBACK_LINKS = "DELETE FROM job_callbacks WHERE subscription_id = :id"
MAX_SUBSCRIPTIONS = 100_000
# The failing sinks.
FAILING = f"""
SELECT id, failing_since FROM subscriptions WHERE failing_since IS NOT NULL
ORDER BY failing_since LIMIT {MAX_SUBSCRIPTIONS}
"""
_OF_THE_SINK = ("failing_since", "failing_reason", "paused_until")
_OF_ITS_STATE = ("state", "state_since", "state_reason", "probe_at", "drain_since", "handshake_at")
_FIXED = ("id", "created_at", "start_at", "owner")
_PLAIN = (*_FIXED, *_OF_ITS_STATE, *_OF_THE_SINK, "kind", "source", "description")
"""Columns that hold an attribute as it is."""
_CONFIG = (
    *("method", "ordering", "signature", "handshake", "timeout_seconds", "retry_schedule_seconds", "rate_per_second"),
    "concurrency",
)
# Changes a subscription's state. Resuming an enabled subscription also changes `state_since`, so that every node drops
# what it knows of the sink; resuming a pending one begins another handshake.
SET_STATE = """
UPDATE subscriptions SET
  state_since = CASE WHEN state = :state AND state NOT IN ('enabled', 'pending') THEN state_since ELSE :now END,
  state_reason = CASE WHEN state = :state AND state NOT IN ('enabled', 'pending') THEN state_reason ELSE :reason END,
  drain_since = CASE WHEN state = 'disabled' AND :state = 'enabled' THEN :now ELSE drain_since END,
  handshake_at = CASE WHEN :state = 'pending' THEN :now END,
  probe_at = NULL, state = :state
WHERE id = :id
"""
# Makes a subscription pending that was sent to without a handshake, unless it has changed since it was read.
AWAIT_CONSENT = """
UPDATE subscriptions SET state = 'pending', state_since = :now, state_reason = :reason, probe_at = NULL,
  handshake_at = :now
WHERE id = :id AND (state = 'enabled' OR (state = 'disabled' AND probe_at IS NOT NULL))
  AND COALESCE(state_since, -1) = COALESCE(CAST(:state_since AS double precision), -1)
"""
# The pending subscriptions whose sink is to be asked now.
DUE_HANDSHAKES = """
SELECT handshake_at, id FROM subscriptions
WHERE state = 'pending' AND handshake_at <= :now AND (handshake_at, id) > (:after_at, :after_id)
ORDER BY handshake_at, id LIMIT :count
"""
# When the next sink is asked.
NEXT_HANDSHAKE = "SELECT MIN(handshake_at) FROM subscriptions WHERE state = 'pending' AND handshake_at > :now"
# Takes the turn to ask a sink. A node keeps it until it reports, or until then if it dies.
HANDSHAKE_TURN = """
UPDATE subscriptions SET handshake_at = :until WHERE id = :id AND state = 'pending' AND handshake_at <= :now
"""
# Ends a turn without consent: the sink is asked again later, or only after `resume`.
POSTPONE_HANDSHAKE = """
UPDATE subscriptions SET handshake_at = :at, state_reason = :reason
WHERE id = :id AND state = 'pending' AND handshake_at = :until
"""
# Records the result of a handshake with the present sink, and enables the subscription if it waits for that.
END_HANDSHAKE = sql(
    """
UPDATE subscriptions SET consent = $json(consent), handshake_at = NULL,
  state_since = CASE WHEN state = 'pending' THEN :now ELSE state_since END,
  state_reason = CASE WHEN state = 'pending' THEN :reason ELSE state_reason END,
  drain_since = CASE WHEN state = 'pending' THEN :now ELSE drain_since END,
  state = CASE WHEN state = 'pending' THEN 'enabled' ELSE state END
WHERE id = :id AND sink_digest = :digest AND (:granted = 1 OR state = 'pending')
"""
)
# Enables a subscription that needs no consent any more, unless it has changed since it was found due.
WAIVE_CONSENT = """
UPDATE subscriptions SET state = 'enabled', state_since = :now, state_reason = :reason, handshake_at = NULL,
  drain_since = :now
WHERE id = :id AND state = 'pending' AND handshake_at <= :now
"""
# Ends every turn to ask a sink: no other node has this database.
FREE_HANDSHAKES = """
UPDATE subscriptions SET handshake_at = :now
WHERE id IN (SELECT id FROM subscriptions WHERE state = 'pending' AND handshake_at > :now)
"""
GRANT_CONTEXT = "webhook-consent"
"""What binds the key of a consent URL to its purpose."""
MAX_GRANT_CHARACTERS = 1_024
GRANT_SECONDS = 7 * 86_400.0
# Forgets a sink's failures and pause.
FORGET_FAILURES = f"UPDATE subscriptions SET {', '.join(f'{name} = NULL' for name in _OF_THE_SINK)} WHERE id = :id"
# Probes a disabled subscription at once.
PROBE_NOW = "UPDATE subscriptions SET probe_at = :now WHERE id = :id AND probe_at IS NOT NULL"
# Begins or ends the turn to trade a refresh token, or the pause after a failure.
SET_REFRESH_UNTIL = "UPDATE subscriptions SET refresh_until = :until WHERE id = :id"
# Counts an owner's valid secrets.
COUNT_SECRETS = "SELECT COUNT(*) FROM secrets WHERE owner = :owner AND (expires_at IS NULL OR expires_at > :now)"
_NEWEST_SECRET = (col(SecretRow.expires_at).is_not(None), col(SecretRow.created_at).desc(), col(SecretRow.id).desc())


class Cipher(Protocol):
    """Encrypts stored values. `context` binds a ciphertext to its row."""

    def encrypt(self, plaintext: bytes, *, context: str) -> bytes:
        """The ciphertext."""

    def decrypt(self, blob: bytes, *, context: str) -> bytes:
        """The plaintext."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refresh:
    subscription_id: str
    credential_id: str
    used: str | None
    now: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    id: str
    state: str
    reason: str | None
    now: float


class SubscriptionStore(Scoped):
    """Reads and writes of subscriptions."""

    def __init__(self, database: Database, outbox: Outbox, cipher: Cipher) -> None:
        self._database = database
        self._outbox = outbox
        self._cipher = cipher
        self._turns = in_order_of(lambda item: item.subscription_id)(self._turn)
        self._keeps = in_order_of(lambda item: item[0])(self._keep)
        self._awaits = in_order_of(lambda item: item[0])(self._await_consent)
        self._ends = in_order_of(lambda item: item[0])(self._end_handshake)
        self._waives = in_order_of(lambda item: item[0])(self._waive_consent)
        self._others_changes = 0
        self._found_version: int | None = None

    @property
    def version(self) -> int:
        """Rises with every committed change, including those made by attempt results; caches elsewhere then reload."""
        return self._outbox.subscriptions.version + self._others_changes

    # --- writes

    async def create(self, subscription: Subscription) -> Subscription:
        """Stores a new subscription, with a delivery for each past event since its `start_at`. Limited to an account,
        it belongs to that account."""
        if self._owner is not None:
            subscription = replace(subscription, owner=self._owner)
        await self._database.write(self._create, subscription)
        return subscription

    async def replace(
        self, subscription: Subscription, now: float, awaits_consent: Callable[[Subscription], bool] = lambda _: False
    ) -> None:
        """Stores new settings; state and secrets stay. If the sink, its method, headers or credential change, the
        failures of the old ones are forgotten and the backlog is tried soon. If `ordering` changes, open deliveries
        are reordered in chunks that do not delay other writes. Raises NotFound.

        awaits_consent  whether the sink must be asked, given the new settings and the consent to them: the
                        subscription is then pending. If it is pending already, the sink is asked once more.
        """
        await self._refuse_hidden(subscription.id)
        if not await self._database.write(self._replace, (subscription, now, awaits_consent)):
            return
        after = ""
        while uids := await self._database.read(jobs_of_subscription, subscription.id, after):
            await self._database.write(self._reorder, (subscription.id, uids, now))
            after = uids[-1]

    async def callback_for(self, sink: str, subscription_id: str, now: float, owner: str | None = None) -> str:
        """The id of this URL's callback subscription, created as `subscription_id` if there is none. An account whose
        bound token names the URL has one of its own."""
        made = Subscription(id=subscription_id, sink=sink, callback=True, created_at=now, owner=owner)
        return await self._database.write(self._callback_for, made)

    async def set_state(self, subscription_id: str, state: str, now: float, reason: str | None = None) -> None:
        """Enables, pauses or disables, or makes it pending. Disabled this way, a subscription is not probed. Raises
        NotFound."""
        await self._refuse_hidden(subscription_id)
        change = _Change(id=subscription_id, state=state, reason=reason, now=now)
        await self._database.write(self._set_state, change)

    async def set_sink_health(
        self,
        subscription_id: str,
        *,
        failing_since: float | None,
        paused_until: float | None,
        failing_reason: str | None = None,
    ) -> None:
        """Stores since when the sink has only failed (None: it does not fail), the first reason, and until when it
        asked to be left alone."""
        health = (subscription_id, failing_since, failing_reason, paused_until)
        await self._database.write(_set_sink_health, health)

    async def add_secret(self, owner: str, value: str, now: float, *, old_expire_at: float | None = None) -> None:
        """Adds a signing secret to a subscription (or CALLBACK_OWNER, SIGNING_OWNER); older ones expire at
        `old_expire_at`. A disabled subscription that is being probed is probed again at once. Raises Conflict for a
        rotation while MAX_SECRETS are valid."""
        await self._refuse_hidden(owner)
        await self._database.write(self._add_secret, (owner, value, now, old_expire_at))

    async def free_all(self, now: float) -> None:
        """Ends the handshakes of a node that was killed. Only for a database that no other node has."""
        await self._database.write(_free_all, now)

    # --- handshakes

    async def await_consent(self, subscriptions: Sequence[Subscription], now: float) -> None:
        """Makes subscriptions pending that are sent to without a handshake."""
        for start in range(0, len(subscriptions), READ_AT_ONCE):
            part = [(one.id, one.state_since, now) for one in subscriptions[start : start + READ_AT_ONCE]]
            await asyncio.gather(*(self._database.write(self._awaits, item) for item in part))

    async def due_handshakes(self, now: float, *, after: tuple[float, str], count: int) -> list[tuple[float, str]]:
        """The pending subscriptions whose sink is to be asked, each with the time since when, in this order, behind
        one of them."""
        return await self._database.read(_due_handshakes, now, after, count)

    async def next_handshake_at(self, now: float) -> float | None:
        """When the next sink is asked; None if none waits."""
        return await self._database.read(_next_handshake_at, now)

    async def handshake_turn(self, subscription_id: str, now: float, until: float) -> bool:
        """Takes the turn to ask a sink, until `until`. Returns whether it was this node's turn."""
        return await self._database.write(_handshake_turn, (subscription_id, now, until))

    async def postpone_handshake(self, subscription_id: str, until: float, at: float | None, reason: str) -> None:
        """Ends the turn `until` without consent. The sink is asked again at `at`; None: only after `resume`."""
        await self._database.write(_postpone_handshake, (subscription_id, until, at, reason))

    async def end_handshake(self, subscription: Subscription, consent: Consent, reason: str) -> bool:
        """Records a result, and enables the subscription if it is pending. Returns False if it has another sink by
        now, or consent already, or was removed."""
        found = digest(subscription.sink, subscription.owner)
        return await self._database.write(self._ends, (subscription.id, found, consent, reason))

    async def waive_consent(self, subscription_id: str, now: float, reason: str) -> bool:
        """Enables a pending subscription that is due. Returns False if it is none by now."""
        return await self._database.write(self._waives, (subscription_id, now, reason))

    def grant_key(self, subscription: Subscription, origin: str, now: float) -> str:
        """A key with which the sink can consent later: encrypted, so nobody else can make one."""
        granted = dumps([subscription.id, digest(subscription.sink, subscription.owner), origin, now])
        sealed = self._cipher.encrypt(granted, context=GRANT_CONTEXT)
        return urlsafe_b64encode(sealed).decode().rstrip("=")

    async def grant(self, key: str, now: float, rate_per_minute: int | None, reason: str) -> str | None:
        """Records the consent that a key stands for. Returns the subscription's id; None if the key is malformed or
        old, or if the subscription has another sink by now, or consent already."""
        try:
            if len(key) > MAX_GRANT_CHARACTERS:
                return None
            sealed = urlsafe_b64decode(key + "=" * (-len(key) % 4))
            subscription_id, found, origin, made_at = loads(self._cipher.decrypt(sealed, context=GRANT_CONTEXT))
        except Exception:  # a stranger sends what he likes, and a cipher says so in its own way
            return None
        if not 0 <= now - made_at <= GRANT_SECONDS:
            return None
        if not await self._database.read(_may_consent, subscription_id, found):
            return None  # repeated calls by a stranger cost no write
        consent = Consent(granted=True, origin=origin, at=now, rate_per_minute=rate_per_minute)
        recorded = await self._database.write(self._ends, (subscription_id, found, consent, reason))
        return subscription_id if recorded else None

    # --- credentials

    async def refresh_turn(
        self, subscription_id: str, credential_id: str, *, used: str | None, now: float, until: float
    ) -> RefreshTurn:
        """Takes the turn to trade a refresh token, until `until`. No turn is needed, and none taken, if another node
        has stored another access token than `used`."""
        item = _Refresh(subscription_id=subscription_id, credential_id=credential_id, used=used, now=now, until=until)
        return await self._database.write(self._turns, item)

    async def keep_credential(self, subscription_id: str, credential: SinkCredential) -> bool:
        """Stores the new tokens of a credential and ends the turn. Returns False if it was replaced or removed."""
        return await self._database.write(self._keeps, (subscription_id, credential))

    async def pause_refresh(self, subscription_id: str, until: float) -> None:
        """Nobody trades the refresh token before then."""
        await self._database.write(_pause_refresh, (subscription_id, until))

    async def ensure_secret(self, owner: str, value: str, now: float) -> None:
        """Adds the secret unless the owner has one. Of nodes that start together, one adds its own."""
        if not await self.secrets(owner):
            await self._database.write(self._ensure_secret, (owner, value, now))

    async def remove(self, subscription_id: str, now: float) -> None:
        """Deletes a subscription and cancels its open deliveries, in chunks that do not delay other writes. Raises
        NotFound.

        After the deletion no delivery of it is added or promoted. Upkeep cancels what a crash leaves open.
        """
        await self._refuse_hidden(subscription_id)
        await self._database.write(self._remove, subscription_id)
        while await self._database.write(cancel_some, (subscription_id, now)) == CANCEL_CHUNK:
            pass

    async def _refuse_hidden(self, subscription_id: str) -> None:
        if self._account is not None and await self.get(subscription_id) is None:
            raise _not_found(subscription_id)

    def changed(self) -> None:
        """Makes caches elsewhere reload."""
        self._others_changes += 1

    async def find_changes(self) -> bool:
        """Calls `changed` if another node changed a subscription since the last call, in case its notice was lost.
        Returns whether one did."""
        number = await self._database.read(_version)
        if number == self._found_version:
            return False
        self._found_version = number
        self.changed()
        return True

    # --- reads

    async def all(self) -> list[Subscription]:
        """All subscriptions with their secrets, without callbacks, of which there may be as many as jobs."""
        return await self._database.read(self._all, self._owner)

    async def some(self, ids: Sequence[str]) -> list[Subscription]:
        """The existing subscriptions of these ids, callbacks included, with their secrets."""
        found = await self._database.read(self._some, ids)
        return [one for one in found if self._sees(one.owner)]

    async def get(self, subscription_id: str) -> Subscription | None:
        """One subscription with its secrets."""
        found = await self._database.read(self._get, subscription_id)
        return found if found is not None and self._sees(found.owner) else None

    async def failing(self) -> dict[str, float]:
        """Since when each failing sink has only failed, by subscription."""
        return await self._database.read(_failing)

    async def page(self, *, limit: int, cursor: str | None = None, callbacks: bool = False) -> Page[Subscription]:
        """Newest first. Callbacks only on request."""
        statement = select(SubscriptionRow).order_by(col(SubscriptionRow.id).desc()).limit(limit + 1)
        before = decode_cursor(cursor, prefix="sub_")
        if before is not None:
            statement = statement.where(col(SubscriptionRow.id) < before)
        if not callbacks:
            statement = statement.where(text("callback = 0"))
        if self._owner is not None:
            statement = statement.where(col(SubscriptionRow.owner) == self._owner)
        return await self._database.read(read_page, statement, limit, lambda row: self._from_row(row, ()), "id")

    async def secrets(self, owner: str) -> tuple[SigningSecret, ...]:
        """An owner's signing secrets: those that do not expire first, then newest first."""
        return await self._database.read(self._secrets_of, owner)

    async def own_secrets(self) -> tuple[tuple[SigningSecret, ...], tuple[SigningSecret, ...]]:
        """The relay's own: the callback secrets, and the private keys. Sorted like `secrets`."""
        return await self._database.read(self._own_secrets)

    # --- batches

    def _create(self, connection: Connection, items: Sequence[Subscription]) -> Sequence[None]:
        for subscription in items:
            connection.execute(insert(SubscriptionRow), self._values(subscription))
            for secret in subscription.secrets:
                self._insert_secret(connection, subscription.id, secret.value, subscription.created_at)
            self._outbox.subscriptions.changed(connection)
            if subscription.start_at is not None:
                self._backfill(connection, subscription)
        return [None] * len(items)

    def _backfill(self, connection: Connection, subscription: Subscription) -> None:
        first = run(connection, FIRST_POSITION, since=subscription.start_at).scalar_one()
        position = None if first is None else int(first) - 1
        while position is not None:
            rows = connection.execute(
                select(EventRow)
                .where(col(EventRow.position) > position, col(EventRow.recorded_at) >= subscription.start_at)
                .order_by(col(EventRow.position))
                .limit(BACKFILL_CHUNK)
                .with_for_update(read=True, key_share=True)  # or retention could delete them meanwhile
            ).all()
            position = rows[-1].position if rows else None
            wanted = [
                event
                for event in map(event_from, rows)
                if matches(
                    subscription,
                    event.type,
                    event.source,
                    job_event=event.job_uid is not None,
                    owner=event.owner,
                )
            ]
            busy = open_pairs(connection, sorted({event.job_uid for event in wanted if event.job_uid is not None}))
            now = subscription.created_at
            run_many(
                connection, INSERT_DELIVERY, [delivery_values(event, subscription, busy, now=now) for event in wanted]
            )

    def _replace(
        self, connection: Connection, items: Sequence[tuple[Subscription, float, Callable[[Subscription], bool]]]
    ) -> Sequence[bool | Exception]:
        """For each item, whether its ordering changed."""
        results: list[bool | Exception] = []
        for subscription, now, awaits_consent in items:
            row = self._locked(connection, subscription.id)
            if row is None:
                results.append(_not_found(subscription.id))
                continue
            before = self._from_row(row, ())
            if _same(subscription.credential, before.credential):  # its tokens may have been renewed meanwhile
                subscription = replace(subscription, credential=before.credential)
            values = self._values(subscription)
            for name in (*_FIXED, *_OF_ITS_STATE, *_OF_THE_SINK, "callback"):
                del values[name]
            if subscription.reached_by != before.reached_by:
                values |= {**_tried_anew(row, now), "refresh_until": None}
            consent = before.consent if values["sink_digest"] == row.sink_digest else None
            if consent is None:
                values["consent"] = None
            values |= _asked_anew(row, now, awaits=awaits_consent(replace(subscription, consent=consent)))
            connection.execute(
                update(SubscriptionRow).where(col(SubscriptionRow.id) == subscription.id).values(**values)
            )
            results.append(subscription.ordering != row.config["ordering"])
        self._outbox.subscriptions.changed(connection)
        return results

    def _await_consent(self, connection: Connection, item: tuple[str, float | None, float]) -> None:
        subscription_id, state_since, now = item
        if run(connection, AWAIT_CONSENT, id=subscription_id, state_since=state_since, now=now, reason=WAITS).rowcount:
            self._outbox.subscriptions.changed(connection)

    def _waive_consent(self, connection: Connection, item: tuple[str, float, str]) -> bool:
        subscription_id, now, reason = item
        waived = run(connection, WAIVE_CONSENT, id=subscription_id, now=now, reason=reason).rowcount
        if waived:
            self._outbox.subscriptions.changed(connection)
        return bool(waived)

    def _end_handshake(self, connection: Connection, item: tuple[str, str, Consent, str]) -> bool:
        subscription_id, found, consent, reason = item
        if consent.granted and not _may_consent(connection, subscription_id, found):
            return False
        stored = {"sink": found, **asdict(consent)}
        recorded = run(
            connection,
            END_HANDSHAKE,
            id=subscription_id,
            digest=found,
            consent=dumps(stored).decode(),
            granted=int(consent.granted),
            now=consent.at,
            reason=reason,
        ).rowcount
        if recorded:
            self._outbox.subscriptions.changed(connection)
        return bool(recorded)

    def _turn(self, connection: Connection, item: _Refresh) -> RefreshTurn:
        row = self._locked(connection, item.subscription_id)
        credential = None if row is None else self._from_row(row, ()).credential
        if row is None or credential is None or credential.id != item.credential_id:
            return RefreshTurn(credential=None)
        token = stored_token(credential)
        if token is not None and token.value != item.used and token.stale_at > item.now:
            return RefreshTurn(credential=credential)
        if row.refresh_until is not None and row.refresh_until > item.now:
            return RefreshTurn(credential=credential, until=row.refresh_until)
        run(connection, SET_REFRESH_UNTIL, id=item.subscription_id, until=item.until)
        return RefreshTurn(credential=credential, mine=True, until=item.until)

    def _keep(self, connection: Connection, item: tuple[str, SinkCredential]) -> bool:
        subscription_id, credential = item
        row = self._locked(connection, subscription_id)
        subscription = None if row is None else self._from_row(row, ())
        if subscription is None or not _same(credential, subscription.credential):
            return False
        sealed = self._values(replace(subscription, credential=credential))["sealed"]
        changed = update(SubscriptionRow).where(col(SubscriptionRow.id) == subscription_id)
        connection.execute(changed.values(sealed=sealed, refresh_until=None))
        return True

    @staticmethod
    def _locked(connection: Connection, subscription_id: str) -> Row[Any] | None:
        of_it = select(SubscriptionRow).where(col(SubscriptionRow.id) == subscription_id)
        return connection.execute(of_it.with_for_update()).one_or_none()

    def _reorder(self, connection: Connection, items: Sequence[tuple[str, Sequence[str], float]]) -> Sequence[None]:
        for subscription_id, uids, now in items:
            reorder(connection, self._outbox.subscriptions, subscription_id, uids, now)
        return [None] * len(items)

    def _callback_for(self, connection: Connection, items: Sequence[Subscription]) -> Sequence[str]:
        ids: list[str] = []
        for made in items:
            found = connection.execute(
                select(col(SubscriptionRow.id)).where(
                    text("callback = 1"), col(SubscriptionRow.sink_digest) == digest(made.sink, made.owner)
                )
            ).scalar_one_or_none()
            if found is None:
                self._outbox.subscriptions.callback_made(connection)
                connection.execute(insert(SubscriptionRow), self._values(made))
                found = made.id
            ids.append(found)
        return ids

    def _set_state(self, connection: Connection, items: Sequence[_Change]) -> Sequence[None | Exception]:
        results: list[None | Exception] = []
        for change in items:
            values = {"id": change.id, "state": change.state, "reason": change.reason, "now": change.now}
            changed = run(connection, SET_STATE, **values).rowcount
            if change.state in ("enabled", "pending"):
                run(connection, FORGET_FAILURES, id=change.id)
            results.append(None if changed else _not_found(change.id))
        self._outbox.subscriptions.changed(connection)
        return results

    def _add_secret(
        self, connection: Connection, items: Sequence[tuple[str, str, float, float | None]]
    ) -> Sequence[None | Exception]:
        self._outbox.subscriptions.changed(connection)  # first, so that two rotations come one after the other
        results: list[None | Exception] = []
        for owner, value, now, old_expire_at in items:
            rotates = old_expire_at is not None
            if rotates and run(connection, COUNT_SECRETS, owner=owner, now=now).scalar_one() >= MAX_SECRETS:
                problem = f"{MAX_SECRETS} secrets are valid: wait until an old one expires"
                results.append(Conflict(problem, code="too_many_secrets"))
                continue
            if rotates:
                connection.execute(
                    update(SecretRow)
                    .where(col(SecretRow.owner) == owner, col(SecretRow.expires_at).is_(None))
                    .values(expires_at=old_expire_at)
                )
            self._insert_secret(connection, owner, value, now)
            run(connection, PROBE_NOW, id=owner, now=now)
            results.append(None)
        return results

    def _ensure_secret(self, connection: Connection, items: Sequence[tuple[str, str, float]]) -> Sequence[None]:
        self._outbox.subscriptions.changed(connection)  # first: it waits for a node that adds one
        for owner, value, now in items:
            if not self._secrets_of(connection, owner):
                self._insert_secret(connection, owner, value, now)
        return [None] * len(items)

    def _remove(self, connection: Connection, items: Sequence[str]) -> Sequence[None | Exception]:
        self._outbox.subscriptions.changed(connection)  # waits for transactions that may add a delivery to it
        results: list[None | Exception] = []
        for subscription_id in items:
            if not connection.execute(
                delete(SubscriptionRow).where(col(SubscriptionRow.id) == subscription_id)
            ).rowcount:
                results.append(_not_found(subscription_id))
                continue
            connection.execute(delete(SecretRow).where(col(SecretRow.owner) == subscription_id))
            run(connection, DELETE_CALLBACK_LINKS, id=subscription_id)
            results.append(None)
        return results

    def _insert_secret(self, connection: Connection, owner: str, value: str, now: float) -> None:
        secret_id = new_id("sec", now)
        ciphertext = self._cipher.encrypt(value.encode(), context=secret_id)
        connection.execute(
            insert(SecretRow), {"id": secret_id, "owner": owner, "ciphertext": ciphertext, "created_at": now}
        )

    # --- queries

    def _values(self, subscription: Subscription) -> dict[str, Any]:
        sealed: dict[str, Any] = {"sink": subscription.sink, "headers": subscription.headers}
        credential = subscription.credential
        if credential is not None:
            sealed["credential"] = [credential.id, credential.origin, credential.fields]
        return {
            **{name: getattr(subscription, name) for name in _PLAIN},
            "sink_digest": digest(subscription.sink, subscription.owner),
            "sealed": self._cipher.encrypt(dumps(sealed), context=subscription.id),
            "types": None if subscription.types is None else list(subscription.types),
            "callback": int(subscription.callback),
            "config": {
                **{name: getattr(subscription, name) for name in _CONFIG},
                "options": dict(subscription.options),
            },
        }

    def _from_row(self, row: Row[Any], secrets: tuple[SigningSecret, ...]) -> Subscription:
        sealed = loads(self._cipher.decrypt(row.sealed, context=row.id))
        config = {"signature": "v1", "handshake": "off", **row.config}
        if row.callback:  # callbacks use the relay's own settings; old rows hold those of the day they were created
            config = {**config, "timeout_seconds": None, "retry_schedule_seconds": None}
        schedule = config["retry_schedule_seconds"]
        given = sealed.get("credential")
        return Subscription(
            **{name: getattr(row, name) for name in _PLAIN},
            **{name: config[name] for name in (*_CONFIG, "options") if name != "retry_schedule_seconds"},
            retry_schedule_seconds=None if schedule is None else tuple(schedule),
            sink=sealed["sink"],
            headers=tuple((name, value) for name, value in sealed["headers"]),
            credential=None if given is None else SinkCredential(id=given[0], origin=given[1], fields=given[2]),
            types=None if row.types is None else tuple(row.types),
            callback=bool(row.callback),
            consent=_consent(row),
            secrets=secrets,
        )

    def _secrets_of(self, connection: Connection, owner: str) -> tuple[SigningSecret, ...]:
        rows = connection.execute(select(SecretRow).where(col(SecretRow.owner) == owner).order_by(*_NEWEST_SECRET))
        return tuple(self._secret(row) for row in rows)

    def _secret(self, row: Row[Any]) -> SigningSecret:
        value = self._cipher.decrypt(row.ciphertext, context=row.id).decode()
        return SigningSecret(value=value, expires_at=row.expires_at, created_at=row.created_at)

    def _own_secrets(self, connection: Connection) -> tuple[tuple[SigningSecret, ...], tuple[SigningSecret, ...]]:
        return self._secrets_of(connection, CALLBACK_OWNER), self._secrets_of(connection, SIGNING_OWNER)

    def _all(self, connection: Connection, owner: str | None) -> list[Subscription]:
        listed = (
            select(SubscriptionRow)
            .where(text("callback = 0"))
            .order_by(col(SubscriptionRow.id))
            .limit(MAX_SUBSCRIPTIONS)
        )
        if owner is None:
            # A key of the audit that does not decrypt concerns the audit only: see `AuditStore.keys`.
            others = select(SecretRow).where(col(SecretRow.owner) != AUDIT_OWNER)
            return self._with_secrets(connection, listed, others)
        listed = listed.where(col(SubscriptionRow.owner) == owner)
        ids = select(col(SubscriptionRow.id)).where(col(SubscriptionRow.owner) == owner)
        return self._with_secrets(connection, listed, select(SecretRow).where(col(SecretRow.owner).in_(ids)))

    def _some(self, connection: Connection, ids: Sequence[str]) -> list[Subscription]:
        found: list[Subscription] = []
        for start in range(0, len(ids), READ_AT_ONCE):
            part = ids[start : start + READ_AT_ONCE]
            chosen = select(SubscriptionRow).where(col(SubscriptionRow.id).in_(part)).order_by(col(SubscriptionRow.id))
            found += self._with_secrets(connection, chosen, select(SecretRow).where(col(SecretRow.owner).in_(part)))
        return found

    def _with_secrets(self, connection: Connection, which: Select[Any], of_them: Select[Any]) -> list[Subscription]:
        secrets: dict[str, list[SigningSecret]] = {}
        for row in connection.execute(of_them.order_by(*_NEWEST_SECRET)):
            secrets.setdefault(row.owner, []).append(self._secret(row))
        return [self._from_row(row, tuple(secrets.get(row.id, ()))) for row in connection.execute(which)]

    def _get(self, connection: Connection, subscription_id: str) -> Subscription | None:
        row = connection.execute(
            select(SubscriptionRow).where(col(SubscriptionRow.id) == subscription_id)
        ).one_or_none()
        return None if row is None else self._from_row(row, self._secrets_of(connection, subscription_id))


def digest(sink: str, owner: str | None = None) -> str:
    """The key by which a sink is looked up; an owner has its own."""
    key = sink if owner is None else f"{sink}\n{owner}"
    return hashlib.sha256(key.encode()).hexdigest()


def _consent(row: Row[Any]) -> Consent | None:
    """The consent of the present sink."""
    stored = row.consent
    if stored is None or stored["sink"] != row.sink_digest:
        return None
    return Consent(**{name: value for name, value in stored.items() if name != "sink"})


def _may_consent(connection: Connection, subscription_id: str, found: str) -> bool:
    """Whether the subscription still has the sink of this digest, and no consent yet."""
    of_it = select(SubscriptionRow).where(col(SubscriptionRow.id) == subscription_id)
    row = connection.execute(of_it).one_or_none()
    if row is None or row.sink_digest != found:
        return False
    consent = _consent(row)
    return consent is None or not consent.granted


def _asked_anew(row: Row[Any], now: float, *, awaits: bool) -> dict[str, Any]:
    """The columns that change if the sink must be asked from `now` on, or need not be. A paused subscription, and one
    whose sink is gone, stay as they are: `resume` asks."""
    if awaits and (row.state in ("enabled", "pending") or row.probe_at is not None):
        asked = {"state_since": now, "state_reason": WAITS, "handshake_at": now}
        return {**asked, "state": "pending", "probe_at": None}
    if row.state == "pending" and not awaits:
        free = {"state_since": now, "state_reason": "needs no consent", "handshake_at": None, "drain_since": now}
        return {**free, "state": "enabled"}
    return {}


@each
def _free_all(connection: Connection, now: float) -> None:
    run(connection, FREE_HANDSHAKES, now=now)


@each
def _handshake_turn(connection: Connection, item: tuple[str, float, float]) -> bool:
    return bool(run(connection, HANDSHAKE_TURN, id=item[0], now=item[1], until=item[2]).rowcount)


@each
def _postpone_handshake(connection: Connection, item: tuple[str, float, float | None, str]) -> None:
    subscription_id, until, at, reason = item
    run(connection, POSTPONE_HANDSHAKE, id=subscription_id, until=until, at=at, reason=reason)


def _due_handshakes(
    connection: Connection, now: float, after: tuple[float, str], count: int
) -> list[tuple[float, str]]:
    found = run(connection, DUE_HANDSHAKES, now=now, after_at=after[0], after_id=after[1], count=count)
    return [(row.handshake_at, row.id) for row in found]


def _next_handshake_at(connection: Connection, now: float) -> float | None:
    found: float | None = run(connection, NEXT_HANDSHAKE, now=now).scalar_one()
    return found


def _same(one: SinkCredential | None, other: SinkCredential | None) -> bool:
    """Whether both are one credential, perhaps with other tokens."""
    return one is not None and other is not None and one.id == other.id


@each
def _pause_refresh(connection: Connection, item: tuple[str, float]) -> None:
    run(connection, SET_REFRESH_UNTIL, id=item[0], until=item[1])


def _version(connection: Connection) -> int:
    return int(run(connection, VERSION).scalar_one_or_none() or 0)


def _failing(connection: Connection) -> dict[str, float]:
    return {row.id: row.failing_since for row in run(connection, FAILING)}


def _tried_anew(row: Row[Any], now: float) -> dict[str, Any]:
    """The columns that change if the sink is reached in a new way from `now` on. A sink that answered 410 Gone stays
    disabled."""
    if row.state == "disabled":
        return {} if row.probe_at is None else {"probe_at": now}
    forgotten = dict.fromkeys(_OF_THE_SINK)
    return forgotten if row.failing_since is None else {**forgotten, "drain_since": now}


@each
def _set_sink_health(connection: Connection, item: tuple[str, float | None, str | None, float | None]) -> None:
    subscription_id, failing_since, failing_reason, paused_until = item
    if paused_until is not None:
        notify(connection, "subscriptions")
    connection.execute(
        update(SubscriptionRow)
        .where(col(SubscriptionRow.id) == subscription_id)
        .values(failing_since=failing_since, failing_reason=failing_reason, paused_until=paused_until)
    )


def _not_found(subscription_id: str) -> NotFound:
    return NotFound(f"there is no subscription {subscription_id}", code="subscription_not_found")
