"""Subscriptions and callbacks. Columns that can hold a credential are encrypted: see `rows.py` and `secrets.py`."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog
from sqlalchemy import Select, delete, insert, select, text, update
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.incidents import ClosedBecause
from relay.core.jobs.job import JobKey
from relay.core.records import CallbackRoom, Page, SubscriptionRoom, WantedCallback
from relay.core.subscriptions.declared import Change, changed_fields, current_secret, pending_words
from relay.core.subscriptions.filters import filters_key, unreadable
from relay.core.subscriptions.handshake import WAITS
from relay.core.subscriptions.subscription import PULL, SigningSecret, Subscription
from relay.errors import Conflict, DecryptError
from relay.store.databases.database import Cipher, Database, Scoped
from relay.store.databases.group_commit import alone, each
from relay.store.databases.locks import CHANGE, MATCH, incidents_of, locking, row_of, to_change
from relay.store.databases.notices import notify, version_of
from relay.store.databases.pages import decode_cursor, newest_first, page_of, unindexed
from relay.store.databases.statements import TEXT, json_list, run, sql, table_of
from relay.store.deliveries.cancellation import CANCEL_CHUNK, cancel_some
from relay.store.deliveries.memories import FORGET_SUBSCRIPTION
from relay.store.deliveries.past_events import advance, begin, filling_of, unfinished
from relay.store.deliveries.pulls import LAG
from relay.store.outbox.incident_recorder import Summary, joined
from relay.store.outbox.ordering import jobs_of_subscription, reorder
from relay.store.outbox.recording import Outbox
from relay.store.outbox.subscription_cache import FILLING, READ_AT_ONCE, TOLD_SINCE
from relay.store.schema.tables import SecretRow, SubscriptionRow
from relay.store.subscriptions.filters import FilterRoom, begin_of, filter_waiting, hold, is_held
from relay.store.subscriptions.rows import (
    FIXED,
    OF_ITS_STATE,
    OF_THE_SINK,
    digest,
    locked,
    not_found,
    refuse_hidden,
    subscription_from,
    values_of,
)
from relay.store.subscriptions.secrets import (
    AUDIT_OWNER,
    NEWEST_SECRET,
    insert_secret,
    is_same,
    no_room,
    put_secret,
    secret_from,
    secrets_of,
)
from relay.tasks import Turns

log = structlog.get_logger("relay.store")
SUBSCRIPTIONS = table_of(SubscriptionRow)
# The callback subscriptions of some URLs. One seek each, whatever PostgreSQL's statistics say.
BY_DIGEST = sql(
    """
SELECT sink_digest, (SELECT id FROM subscriptions WHERE callback = 1 AND sink_digest = wanted.sink_digest) AS id
FROM $json_rows(digests) AS wanted
""",
    digests={"sink_digest": TEXT},
)
# Number of callbacks of some jobs. `|| ''` keeps PostgreSQL from walking all jobs of the account.
COUNT_CALLBACKS = sql(
    """
SELECT external_id, source, account, resource, (
  SELECT COUNT(*) FROM job_callbacks WHERE job_uid = (
    SELECT uid FROM jobs
    WHERE external_id = wanted.external_id AND source || '' = wanted.source AND account || '' = wanted.account
      AND resource || '' = wanted.resource
  )
) AS callback_count
FROM $json_rows(jobs) AS wanted
""",
    jobs={"external_id": TEXT, "source": TEXT, "account": TEXT, "resource": TEXT},
)
# Number of subscriptions that a token has made. Read in the index of those that are no callbacks.
COUNT_OF_CREATOR = "SELECT COUNT(*) FROM subscriptions WHERE callback = 0 AND creator = :creator"
# Deletes a callback's links to jobs.
DELETE_CALLBACK_LINKS = "DELETE FROM job_callbacks WHERE subscription_id = :id"
MAX_SUBSCRIPTIONS = 100_000
Failed = dict[str, DecryptError]
"""The error that keeps a subscription from being decrypted, by its id, or by the owner of a secret."""
PENDING_COUNTED = 10_000
CURSOR = "subscription "
"""Prefix of cursors: ids can be of the user's own choice, so they do not tell which list they are of."""
# The failing sinks.
FAILING = f"""
SELECT id, failing_since FROM subscriptions WHERE failing_since IS NOT NULL
ORDER BY failing_since LIMIT {MAX_SUBSCRIPTIONS}
"""
# Changes a subscription's state. Resuming an enabled subscription also changes `state_since`, so that every node drops
# its knowledge of the sink; resuming a pending one begins another handshake.
SET_STATE = """
UPDATE subscriptions SET
  state_since = CASE WHEN state = :state AND state NOT IN ('enabled', 'pending') THEN state_since ELSE :now END,
  state_reason = CASE WHEN state = :state AND state NOT IN ('enabled', 'pending') THEN state_reason ELSE :reason END,
  drain_since = CASE WHEN state = 'disabled' AND :state = 'enabled' THEN :now ELSE drain_since END,
  handshake_at = CASE WHEN :state = 'pending' THEN :now END,
  probe_at = NULL, state = :state
WHERE id = :id
"""
# Pauses subscriptions that share a limit. A longer pause stays.
PAUSE = sql(
    """
UPDATE subscriptions SET paused_until = :until
WHERE id IN $json_values(ids) AND (paused_until IS NULL OR paused_until < :until)
"""
)
# Forgets a sink's failures and pause.
FORGET_FAILURES = f"UPDATE subscriptions SET {', '.join(f'{name} = NULL' for name in OF_THE_SINK)} WHERE id = :id"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Apply:
    changes: Sequence[Change]
    room: SubscriptionRoom | None
    now: float
    secrets_expire_at: float
    awaits_consent: Callable[[Subscription], bool]
    cancel_pending: bool

    def each(self, action: str) -> list[Change]:
        """The changes of one action, in the order in which rows are locked."""
        return sorted((one for one in self.changes if one.action == action), key=lambda one: one.id)


class SubscriptionStore(Scoped):
    """Reads and writes of subscriptions."""

    def __init__(self, database: Database, outbox: Outbox, cipher: Cipher) -> None:
        self._database = database
        self._outbox = outbox
        self._cipher = cipher
        self._others_changes = 0
        self._found_version: int | None = None
        self._make_callbacks = locking(lambda _: outbox.subscriptions.callback_locks())(
            lambda connection, items: self._callbacks_for(connection, items)
        )

    @property
    def version(self) -> int:
        """Rises with every committed change, including those made by attempt results; caches elsewhere then reload."""
        return self._outbox.subscriptions.version + self._others_changes

    # --- writes

    async def create(self, subscription: Subscription, room: SubscriptionRoom | None = None) -> Subscription:
        """Stores a new subscription, then a delivery for each past event since its `start_at`, in slices that do not
        delay other writes. Limited to an account, it belongs to that account. Raises Conflict if its token has no
        `room` for another."""
        if self._owner is not None:
            subscription = replace(subscription, owner=self._owner)
        if await self._database.write(self._create, (subscription, room)):
            await self._fill_all(subscription.id)
        return subscription

    async def _fill_all(self, subscription_id: str) -> None:
        while await self._database.write(self._fill, subscription_id):
            pass

    async def continue_filling(self) -> int:
        """Queues the past events of subscriptions whose creation was cut off. Returns how many subscriptions these
        are."""
        ids = await self._database.read(unfinished)
        for id in ids:
            await self._fill_all(id)
        return len(ids)

    async def replace(
        self, subscription: Subscription, now: float, awaits_consent: Callable[[Subscription], bool] = lambda _: False
    ) -> None:
        """Stores new settings; state and secrets stay. If the sink, its method, headers or credential change, the
        failures of the old ones are forgotten and the backlog is tried soon. If `ordering` changes, open deliveries
        are reordered in chunks that do not delay other writes. Raises NotFound.

        awaits_consent  whether the sink must be asked, given the new settings and the consent to them: the
                        subscription is then pending. If it is pending already, the sink is asked once more.
        """
        await refuse_hidden(self._database, self._owner, subscription.id)
        if await self._database.write(self._replace, (subscription, now, awaits_consent)):
            await self._reorder_all(subscription.id, now)

    async def apply(
        self,
        changes: Sequence[Change],
        now: float,
        *,
        secrets_expire_at: float,
        room: SubscriptionRoom | None = None,
        awaits_consent: Callable[[Subscription], bool] = lambda _: False,
        cancel_pending: bool = False,
    ) -> None:
        """Adds, changes and removes subscriptions in one transaction: all of them, or none. Each behaves as `create`,
        `replace` and `remove` do; a replaced signing secret signs until `secrets_expire_at`.

        Raises Conflict: `subscriptions_changed` if one of them is no longer as the change found it,
        `pending_deliveries` if a removal would cancel some without `cancel_pending`, or as `create` and `add_secret`.
        """
        if self._owner is not None:
            changes = [_owned(one, self._owner) for one in changes]
        item = _Apply(
            changes=changes,
            room=room,
            now=now,
            secrets_expire_at=secrets_expire_at,
            awaits_consent=awaits_consent,
            cancel_pending=cancel_pending,
        )
        for id in await self._database.write(self._apply, item):
            await self._reorder_all(id, now)
        for one in item.each("remove"):
            await self._cancel_all(one.id, now)
        for one in item.each("add"):
            if one.after is not None and one.after.start_at is not None:
                await self._fill_all(one.id)

    async def _reorder_all(self, subscription_id: str, now: float) -> None:
        after = ""
        while uids := await self._database.read(jobs_of_subscription, subscription_id, after):
            await self._database.write(self._reorder, (subscription_id, uids, now))
            after = uids[-1]

    async def _cancel_all(self, subscription_id: str, now: float) -> None:
        while await self._database.write(cancel_some, (subscription_id, now)) == CANCEL_CHUNK:
            pass

    async def callbacks_for(
        self, wanted: Sequence[WantedCallback], now: float, owner: str | None = None
    ) -> Sequence[str | None]:
        """The ids of the callback subscriptions of some URLs, in order. Those that do not exist are made, in one
        transaction. An account whose bound token names a URL has one of its own. None if there is none and the job has
        no room for another."""
        made = [
            (Subscription(id=one.subscription_id, sink=one.sink, callback=True, created_at=now, owner=owner), one.room)
            for one in wanted
        ]
        return await self._database.write(self._make_callbacks, made)

    async def set_state(self, subscription_id: str, state: str, now: float, reason: str | None = None) -> None:
        """Enables, pauses or disables, or makes it pending. Disabled this way, a subscription is not probed. If its
        filters could not be read before, its waiting deliveries are filtered first. Raises NotFound, and Conflict if
        its filters cannot be read."""
        await refuse_hidden(self._database, self._owner, subscription_id)
        if state in ("enabled", "pending"):
            await self._filter_waiting(subscription_id, now)
        change = {"id": subscription_id, "state": state, "reason": reason, "now": now}
        await self._database.write(self._set_state, change)

    async def _filter_waiting(self, subscription_id: str, now: float) -> None:
        found = await self._database.read(self._get, subscription_id)
        after = None if found is None else begin_of(found)
        while found is not None and after is not None:
            after = await self._database.write(_filter_some, (found, after, now))

    async def hold_unreadable(self, subscriptions: Sequence[Subscription], now: float) -> list[Subscription]:
        """Pauses those of the subscriptions whose filters cannot be read, so that their events wait. Returns all of
        them in their new state."""
        found: list[Subscription] = []
        turns = Turns()
        for one in subscriptions:
            if turns.over:  # filters that are new are parsed
                await turns.next()
            if unreadable(one.filters) is not None:
                if not is_held(one):
                    await self._database.write(self._hold, (one.id, now))
                one = replace(one, state="paused", probe_at=None)
            found.append(one)
        return found

    async def set_sink_health(
        self,
        subscription_id: str,
        *,
        failing_since: float | None,
        paused_until: float | None,
        failing_reason: str | None = None,
        paused_with_it: Sequence[str] = (),
    ) -> None:
        """Stores since when the sink has only failed (None: it does not fail), the first reason, and until when it
        asked to be left alone. `paused_with_it`: subscriptions that share its limits, so pause as long at least."""
        values = {"failing_since": failing_since, "failing_reason": failing_reason, "paused_until": paused_until}
        await self._database.write(_set_sink_health, (subscription_id, values, tuple(paused_with_it)))

    async def remove(self, subscription_id: str, now: float) -> None:
        """Deletes a subscription and cancels its open deliveries, in chunks that do not delay other writes. Raises
        NotFound.

        After the deletion no delivery of it is added or promoted. Upkeep cancels deliveries that a crash leaves open.
        """
        await refuse_hidden(self._database, self._owner, subscription_id)
        await self._database.write(self._remove, (subscription_id, now))
        await self._cancel_all(subscription_id, now)

    def changed(self) -> None:
        """Makes caches elsewhere reload."""
        self._others_changes += 1

    async def find_changes(self) -> bool:
        """Calls `changed` if another node changed a subscription since the last call, in case its notice was lost.
        Returns whether one did."""
        number = await self._database.read(version_of, "subscriptions")
        if number == self._found_version:
            return False
        self._found_version = number
        self.changed()
        return True

    # --- reads

    async def pending(self, subscription_id: str) -> int:
        """Number of deliveries of a subscription that a removal would cancel, PENDING_COUNTED at most."""
        return await self._database.read(_pending, subscription_id)

    async def all(self, failed: Failed | None = None) -> list[Subscription]:
        """All subscriptions with their secrets, without callbacks, of which there may be as many as jobs. Those that
        cannot be decrypted are in `failed`; without it, raises DecryptError."""
        return await self._database.read(self._all, self._owner, failed)

    async def some(self, ids: Sequence[str], failed: Failed | None = None) -> list[Subscription]:
        """The existing subscriptions of these ids, callbacks included, with their secrets. `failed` as in `all`."""
        found = await self._database.read(self._some, ids, failed)
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
        before = decode_cursor(cursor, prefix=CURSOR)
        statement = page_statement(
            limit, None if before is None else before.removeprefix(CURSOR), self._owner, callbacks=callbacks
        )
        return await self._database.read(self._page, statement, limit)

    # --- batches

    @alone()
    @locking(lambda _: [CHANGE])  # waits for other nodes: their subscriptions count as well
    def _create(
        self,
        connection: Connection,
        items: Sequence[tuple[Subscription, SubscriptionRoom | None]],
        *,
        checked: bool = False,
    ) -> Sequence[Conflict | bool]:
        """For each item, whether past events are left to queue. `checked`: there is room for their comparisons."""
        self._outbox.subscriptions.changed(connection)
        comparisons = FilterRoom(connection)
        results: list[Conflict | bool] = []
        filled = False
        for subscription, room in items:
            if room is not None and run(connection, COUNT_OF_CREATOR, creator=room.creator).scalar_one() >= (
                room.fewer_than
            ):
                results.append(_too_many(room))
                continue
            full = None if checked else comparisons.change(subscription.owner, {subscription.id: subscription})
            if full is not None:
                results.append(full)
                continue
            creator = None if room is None else room.creator
            values = {**values_of(self._cipher, subscription), "creator": creator}
            filling = begin(connection, subscription)
            if filling is not None and not filled:  # one slice in this transaction: most relays have no more
                filling, filled = advance(connection, subscription, filling), True
            if filling is not None:
                values["config"][FILLING] = filling
            connection.execute(insert(SubscriptionRow), values)
            for secret in subscription.secrets:
                insert_secret(connection, self._cipher, subscription.id, secret.value, subscription.created_at)
            results.append(filling is not None)
        return results

    @alone()
    @locking(to_change)
    def _fill(self, connection: Connection, items: Sequence[str]) -> Sequence[bool]:
        """Queues the next past events of each subscription. Returns whether there may be more."""
        results: list[bool] = []
        for subscription_id in items:
            row = locked(connection, subscription_id)
            filling = None if row is None else filling_of(row)
            if row is None or filling is None:
                results.append(False)
                continue
            subscription = subscription_from(self._cipher, row, ())
            further = advance(connection, subscription, filling)
            config = {name: value for name, value in row.config.items() if name != FILLING}
            if further is None:
                self._outbox.subscriptions.changed(connection)
            else:
                config[FILLING] = further
            chosen = update(SubscriptionRow).where(col(SubscriptionRow.id) == subscription_id)
            connection.execute(chosen.values(config=config))
            results.append(further is not None)
        return results

    @locking(lambda item: [*to_change(item[0].id), incidents_of(item[0].id)])
    def _replace(
        self,
        connection: Connection,
        items: Sequence[tuple[Subscription, float, Callable[[Subscription], bool]]],
        *,
        checked: bool = False,
    ) -> Sequence[bool | Exception]:
        """For each item, whether its ordering changed. `checked`: there is room for their comparisons."""
        comparisons = FilterRoom(connection)
        results: list[bool | Exception] = []
        ended: list[Summary] = []
        for subscription, now, awaits_consent in items:
            row = locked(connection, subscription.id)
            if row is None:
                results.append(not_found(subscription.id))
                continue
            before = subscription_from(self._cipher, row, ())
            if not checked and subscription.filters != before.filters:
                full = comparisons.change(row.owner, {row.id: subscription})
                if full is not None:
                    results.append(full)
                    continue
            if is_same(subscription.credential, before.credential):  # its tokens may have been renewed meanwhile
                subscription = replace(subscription, credential=before.credential)
            values = values_of(self._cipher, subscription)
            for name in (*FIXED, *OF_ITS_STATE, *OF_THE_SINK, "callback"):
                del values[name]
            if subscription.reached_by != before.reached_by:
                values |= {**_reset_values(row, subscription, now), "refresh_until": None}
                ended.append(self._end_incident(connection, subscription.id, "subscription_resumed", now))
            if _reporting_key(subscription) == _reporting_key(before):
                values["config"][TOLD_SINCE] = row.config.get(TOLD_SINCE)
            else:
                values["config"][TOLD_SINCE] = now
            if (filling := filling_of(row)) is not None:
                values["config"][FILLING] = filling
            if values["sink_digest"] != row.sink_digest:
                run(connection, FORGET_SUBSCRIPTION, id=subscription.id)
            consent = before.consent if values["sink_digest"] == row.sink_digest else None
            if consent is None:
                values["consent"] = None
            awaits = awaits_consent(replace(subscription, consent=consent))
            asks = values["sink_digest"] != row.sink_digest or subscription.rate_per_second != before.rate_per_second
            values |= _consent_values(row, now, awaits=awaits, asks=asks)
            connection.execute(
                update(SubscriptionRow).where(col(SubscriptionRow.id) == subscription.id).values(**values)
            )
            results.append(subscription.ordering != row.config["ordering"])
        self._outbox.subscriptions.changed(connection)
        self._outbox.insert(connection, (), joined(ended))
        return results

    @alone()
    @locking(lambda _: [MATCH])
    def _reorder(self, connection: Connection, items: Sequence[tuple[str, Sequence[str], float]]) -> Sequence[None]:
        for subscription_id, uids, now in items:
            reorder(connection, self._outbox.subscriptions, subscription_id, uids, now)
        return [None] * len(items)

    def _callbacks_for(
        self, connection: Connection, items: Sequence[Sequence[tuple[Subscription, CallbackRoom | None]]]
    ) -> Sequence[Sequence[str | None]]:
        wanted = {digest(made.sink, made.owner) for item in items for made, _ in item}
        found = run(connection, BY_DIGEST, digests=json_list([[one] for one in sorted(wanted)]))
        known: dict[str, str] = {row.sink_digest: row.id for row in found if row.id is not None}
        rooms = [room for item in items for made, room in item if room and digest(made.sink, made.owner) not in known]
        counts = _callback_counts(connection, rooms)
        rows: list[dict[str, Any]] = []
        for made, room in (one for item in items for one in item):
            key = digest(made.sink, made.owner)
            if key in known or (room is not None and counts[room.job] >= room.fewer_than):
                continue
            if room is not None:
                counts[room.job] += 1
            rows.append(values_of(self._cipher, made))
            known[key] = made.id
        if rows:
            self._outbox.subscriptions.callback_made(connection)
            # in the order of their key, or two nodes that make the same ones would deadlock
            connection.execute(insert(SubscriptionRow), sorted(rows, key=lambda row: str(row["sink_digest"])))
        return [[known.get(digest(made.sink, made.owner)) for made, _ in item] for item in items]

    @locking(lambda change: [*to_change(change["id"]), incidents_of(change["id"])])
    def _set_state(self, connection: Connection, items: Sequence[Mapping[str, Any]]) -> Sequence[None | Exception]:
        results: list[None | Exception] = []
        ended: list[Summary] = []
        for change in items:
            id: str = change["id"]
            changed = run(connection, SET_STATE, **change).rowcount
            if change["state"] in ("enabled", "pending"):
                run(connection, FORGET_FAILURES, id=id)
                ended.append(self._end_incident(connection, id, "subscription_resumed", change["now"]))
            results.append(None if changed else not_found(id))
        self._outbox.subscriptions.changed(connection)
        self._outbox.insert(connection, (), joined(ended))
        return results

    @locking(lambda item: to_change(item[0]))
    def _hold(self, connection: Connection, items: Sequence[tuple[str, float]]) -> Sequence[None]:
        for subscription_id, now in items:
            why = hold(connection, subscription_id, now)
            if why is not None:
                hint = "its events wait: correct the filters, then `relay subscriptions resume` it"
                log.error("filters_unreadable", subscription=subscription_id, error=why, hint=hint)
        self._outbox.subscriptions.changed(connection)
        return [None] * len(items)

    @alone()
    @locking(lambda item: [CHANGE, *(lock for one in item.changes for lock in (row_of(one.id), incidents_of(one.id)))])
    def _apply(self, connection: Connection, items: Sequence[_Apply]) -> Sequence[list[str] | Exception]:
        """For each item, the subscriptions whose ordering changed. An item is refused before anything of it is
        written: what a batch function has written stays."""
        self._outbox.subscriptions.changed(connection)  # one after the other, so what is checked stays true
        return [self._refusal(connection, item) or self._applied(connection, item) for item in items]

    def _refusal(self, connection: Connection, item: _Apply) -> Conflict | None:
        for change in item.changes:
            row = locked(connection, change.id)
            found = None
            if row is not None:
                found = subscription_from(self._cipher, row, secrets_of(connection, self._cipher, change.id))
            if not _is_as_found(change, found):
                return Conflict(f"the subscription {change.id} has just been changed", code="subscriptions_changed")
            if change.new_secret is not None and (full := no_room(connection, change.id, item.now)) is not None:
                return Conflict(f"of the subscription {change.id}, {full}", code=full.code)
            if change.action == "remove" and not item.cancel_pending and (count := _pending(connection, change.id)):
                detail = (
                    f"{pending_words(count)} of the subscription {change.id} would be cancelled, so nothing was "
                    "changed. Keep its id, or send cancel_pending (`relay apply --cancel-pending`)"
                )
                return Conflict(detail, code="pending_deliveries")
        comparisons = FilterRoom(connection)
        of_owner: dict[str | None, dict[str, Subscription | None]] = {}
        for change in item.changes:
            changed = change.after or change.before
            if changed is not None and change.action != "unchanged":
                of_owner.setdefault(changed.owner, {})[change.id] = change.after
        for owner, changes in of_owner.items():
            if (too_many := comparisons.change(owner, changes)) is not None:
                return too_many
        if item.room is None:
            return None
        made = run(connection, COUNT_OF_CREATOR, creator=item.room.creator).scalar_one()
        removed = [one.id for one in item.each("remove")]
        for start in range(0, len(removed), READ_AT_ONCE):
            own = select(col(SubscriptionRow.id)).where(
                col(SubscriptionRow.id).in_(removed[start : start + READ_AT_ONCE]),
                col(SubscriptionRow.creator) == item.room.creator,
            )
            made -= len(connection.execute(own).all())
        return _too_many(item.room) if made + len(item.each("add")) > item.room.fewer_than else None

    def _applied(self, connection: Connection, item: _Apply) -> list[str]:
        self._remove(connection, [(one.id, item.now) for one in item.each("remove")])
        changed = item.each("change")
        after = [one.after for one in changed if one.after is not None]
        wanted = [(one, item.now, item.awaits_consent) for one in after]
        reordered = self._replace(connection, wanted, checked=True)
        for one in changed:
            if one.new_secret is not None:
                put_secret(
                    connection, self._cipher, one.id, one.new_secret, item.now, old_expire_at=item.secrets_expire_at
                )
        added = [(one.after, item.room) for one in item.each("add") if one.after is not None]
        self._create(connection, added, checked=True)
        return [one.id for one, differs in zip(after, reordered, strict=True) if differs]

    def _end_incident(self, connection: Connection, id: str, because: ClosedBecause, now: float) -> Summary:
        """Closes the incident of a subscription's sink, if there is one. Call it while the subscription still has that
        sink, and insert the events last: matching them reads the subscriptions, which must have changed by then."""
        return self._outbox.incidents.sink_recovered(connection, id, because, now)

    # It waits for transactions that may add a delivery to the subscription.
    @locking(lambda item: [*to_change(item[0]), incidents_of(item[0])])
    def _remove(self, connection: Connection, items: Sequence[tuple[str, float]]) -> Sequence[None | Exception]:
        self._outbox.subscriptions.changed(connection)
        results: list[None | Exception] = []
        ended: list[Summary] = []
        for subscription_id, now in items:
            ended.append(self._end_incident(connection, subscription_id, "subscription_removed", now))
            if not connection.execute(
                delete(SubscriptionRow).where(col(SubscriptionRow.id) == subscription_id)
            ).rowcount:
                results.append(not_found(subscription_id))
                continue
            connection.execute(delete(SecretRow).where(col(SecretRow.owner) == subscription_id))
            run(connection, DELETE_CALLBACK_LINKS, id=subscription_id)
            run(connection, FORGET_SUBSCRIPTION, id=subscription_id)
            results.append(None)
        self._outbox.insert(connection, (), joined(ended))
        return results

    # --- queries

    def _all(self, connection: Connection, owner: str | None, failed: Failed | None) -> list[Subscription]:
        listed = (
            select(SubscriptionRow)
            .where(text("callback = 0"))
            .order_by(col(SubscriptionRow.id))
            .limit(MAX_SUBSCRIPTIONS)
        )
        if owner is None:
            # If the key of the audit does not decrypt, that concerns the audit only.
            others = select(SecretRow).where(col(SecretRow.owner) != AUDIT_OWNER)
            return self._with_secrets(connection, listed, others, failed)
        # Without callbacks, of which the owner may have a million, and so not by the index of owners.
        own = (text("callback = 0"), unindexed(SUBSCRIPTIONS.c.owner) == owner)
        listed = listed.where(*own)
        ids = select(col(SubscriptionRow.id)).where(*own)
        return self._with_secrets(connection, listed, select(SecretRow).where(col(SecretRow.owner).in_(ids)), failed)

    def _some(self, connection: Connection, ids: Sequence[str], failed: Failed | None) -> list[Subscription]:
        found: list[Subscription] = []
        for start in range(0, len(ids), READ_AT_ONCE):
            part = ids[start : start + READ_AT_ONCE]
            chosen = select(SubscriptionRow).where(col(SubscriptionRow.id).in_(part)).order_by(col(SubscriptionRow.id))
            theirs = select(SecretRow).where(col(SecretRow.owner).in_(part))
            found += self._with_secrets(connection, chosen, theirs, failed)
        return found

    def _with_secrets(
        self, connection: Connection, which: Select[Any], of_them: Select[Any], failed: Failed | None
    ) -> list[Subscription]:
        secrets: dict[str, list[SigningSecret]] = {}
        found: list[Subscription] = []
        for row in connection.execute(of_them.order_by(*NEWEST_SECRET)):
            with _collecting_errors(failed, row.owner):
                secrets.setdefault(row.owner, []).append(secret_from(self._cipher, row))
        for row in connection.execute(which):
            with _collecting_errors(failed, row.id):
                found.append(subscription_from(self._cipher, row, tuple(secrets.get(row.id, ()))))
        return [one for one in found if one.id not in failed] if failed else found

    def _page(self, connection: Connection, statement: Select[Any], limit: int) -> Page[Subscription]:
        rows = connection.execute(statement).all()
        return page_of(
            rows, limit, lambda row: subscription_from(self._cipher, row, ()), lambda row: f"{CURSOR}{row.id}"
        )

    def _get(self, connection: Connection, subscription_id: str) -> Subscription | None:
        row = connection.execute(
            select(SubscriptionRow).where(col(SubscriptionRow.id) == subscription_id)
        ).one_or_none()
        return (
            None
            if row is None
            else subscription_from(self._cipher, row, secrets_of(connection, self._cipher, subscription_id))
        )


@contextmanager
def _collecting_errors(failed: Failed | None, owner: str) -> Iterator[None]:
    try:
        yield
    except DecryptError as error:
        if failed is None:
            raise
        failed[owner] = error


def page_statement(limit: int, before: str | None, owner: str | None, *, callbacks: bool) -> Select[Any]:
    """One page of subscriptions, newest first."""
    # There are few but callbacks: without them an owner's are found among all others.
    along = [(SUBSCRIPTIONS.c.owner, owner)] if callbacks and owner is not None else []
    statement = newest_first(
        select(SUBSCRIPTIONS), along, [SUBSCRIPTIONS.c.id], before=[] if before is None else [before]
    )
    if not callbacks:
        statement = statement.where(text("callback = 0"))
    if owner is not None and not along:
        statement = statement.where(unindexed(SUBSCRIPTIONS.c.owner) == owner)
    return statement.limit(limit + 1)


def _owned(change: Change, owner: str) -> Change:
    """The change, whose subscription belongs to this owner."""
    return change if change.after is None else replace(change, after=replace(change.after, owner=owner))


def _is_as_found(change: Change, stored: Subscription | None) -> bool:
    """True if a subscription is still as the change found it: absent, or with the same settings and secret."""
    before = change.before
    if before is None or stored is None:
        return before is stored
    same = (before.owner, current_secret(before.secrets)) == (stored.owner, current_secret(stored.secrets))
    return same and not stored.callback and not changed_fields(before, stored)


def _reporting_key(subscription: Subscription) -> tuple[object, ...]:
    """The settings that decide which incidents a subscription reports, and to which sink."""
    filters = filters_key(subscription.filters)
    return subscription.incidents, subscription.wanted_types, subscription.source, subscription.sink, filters


def _consent_values(row: Row[Any], now: float, *, awaits: bool, asks: bool) -> dict[str, Any]:
    """The columns that change when a subscription begins or ceases to need its sink's consent. A paused one, and one
    whose sink is gone, do not change: `resume` asks for consent. A pending one whose sink would be asked the same
    again keeps its pause. `asks`: the question differs from the one before."""
    if awaits and (row.state == "enabled" or (row.state == "pending" and asks) or row.probe_at is not None):
        asked = {"state_since": now, "state_reason": WAITS, "handshake_at": now}
        return {**asked, "state": "pending", "probe_at": None}
    if row.state == "pending" and not awaits:
        free = {"state_since": now, "state_reason": "needs no consent", "handshake_at": None, "drain_since": now}
        return {**free, "state": "enabled"}
    return {}


def _too_many(room: SubscriptionRoom) -> Conflict:
    made = f"this token has made {room.fewer_than:,} subscriptions already (auth.max_subscriptions_per_token)"
    return Conflict(f"{made}: remove some, or use PUT to change one", code="too_many_subscriptions")


def _callback_counts(connection: Connection, rooms: Sequence[CallbackRoom]) -> Counter[JobKey]:
    """Number of callbacks of the jobs."""
    jobs = sorted({room.job for room in rooms})
    found = run(connection, COUNT_CALLBACKS, jobs=json_list(jobs)) if jobs else ()
    return Counter({(row.external_id, row.source, row.account, row.resource): row.callback_count for row in found})


def _failing(connection: Connection) -> dict[str, float]:
    return {row.id: row.failing_since for row in run(connection, FAILING)}


def _reset_values(row: Row[Any], subscription: Subscription, now: float) -> dict[str, Any]:
    """The columns to reset when the sink, its headers or its credential has changed. A sink that answered 410 Gone
    stays disabled. A pull subscription has no sink to probe."""
    if row.state == "disabled" and subscription.kind == PULL:
        free = {"state": "enabled", "state_since": now, "state_reason": "has no sink", "probe_at": None}
        return {**dict.fromkeys(OF_THE_SINK), **free}
    if row.state == "disabled":
        return {} if row.probe_at is None else {"probe_at": now}
    forgotten = dict.fromkeys(OF_THE_SINK)
    return forgotten if row.failing_since is None else {**forgotten, "drain_since": now}


@alone()
@each
def _filter_some(connection: Connection, item: tuple[Subscription, str, float]) -> str | None:
    return filter_waiting(connection, item)


@each
@locking(lambda item: [row_of(id) for id in (item[0], *item[2])])
def _set_sink_health(connection: Connection, item: tuple[str, Mapping[str, Any], tuple[str, ...]]) -> None:
    id, values, paused_with_it = item
    if values["paused_until"] is not None:
        notify(connection, "subscriptions")
    connection.execute(update(SubscriptionRow).where(col(SubscriptionRow.id) == id).values(**values))
    if paused_with_it and values["paused_until"] is not None:
        run(connection, PAUSE, ids=json_list(paused_with_it), until=values["paused_until"])


def _pending(connection: Connection, subscription_id: str) -> int:
    return int(run(connection, LAG, subscription_id=subscription_id, count=PENDING_COUNTED).one().number)
