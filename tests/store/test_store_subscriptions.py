"""Subscriptions and their secrets. Whatever can be a credential is stored encrypted."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from sqlmodel import SQLModel

from relay.config.keyring import Keyring, new_key
from relay.core.subscriptions.declared import Change
from relay.core.subscriptions.subscription import SigningSecret, Subscription
from relay.errors import Conflict, RelayError
from relay.store.databases.sqlite import SqliteDatabase
from relay.store.deliveries.cancellation import CANCEL_CHUNK
from relay.store.store import Store
from relay.store.subscriptions.secrets import CALLBACK_OWNER, SIGNING_OWNER
from tests.support.store_kit import (
    NOW,
    callback_for,
    claim,
    counts,
    execute,
    lease,
    poll,
    registration,
    relay_event,
    result_of,
    rows,
    states,
    subscription,
    together,
    track,
)

FULL = Subscription(
    id="sub_full",
    sink="https://user:sink-password@hooks.example/T000/sink-token?key=sink-query",
    kind="slack",
    types=("ai.revor.job.failed", "relay.source.down"),
    source="https://revor.ai/api/v1/outreach/jobs",
    method="PUT",
    headers=(("Authorization", "Bearer header-token"), ("X-Twice", "1"), ("X-Twice", "2")),
    ordering="none",
    timeout_seconds=7.5,
    retry_schedule_seconds=(1.0, 2.5),
    rate_per_second=0.5,
    concurrency=3,
    description="to the team",
    options={"template": {"a": [1, None]}},
    secrets=(SigningSecret(value="whsec_very-secret"),),
    created_at=NOW,
    start_at=NOW - 5,
)


async def test_a_subscription_comes_back_as_it_was_stored(store: Store) -> None:
    await store.subscriptions.create(FULL)
    assert await store.subscriptions.get("sub_full") == FULL
    assert await store.subscriptions.all() == [FULL]
    assert (await store.subscriptions.page(limit=5)).items == (replace(FULL, secrets=()),)


async def test_a_callback_has_no_settings_of_its_own_whatever_its_row_says(store: Store) -> None:
    made = subscription("sub_1", callback=True)
    await store.subscriptions.create(replace(made, timeout_seconds=15.0, retry_schedule_seconds=(5.0,)))
    assert await store.subscriptions.get("sub_1") == made


async def test_new_settings_leave_state_secrets_and_age_alone(store: Store) -> None:
    await store.subscriptions.create(FULL)
    await store.subscriptions.set_state("sub_full", "disabled", NOW + 1, "410 Gone")
    await store.subscriptions.set_sink_health("sub_full", failing_since=NOW, paused_until=NOW + 60)
    new = subscription("sub_full", sink="https://new.example", created_at=NOW + 99, state="enabled", callback=True)
    await store.subscriptions.replace(new, NOW + 2)
    found = await store.subscriptions.get("sub_full")
    assert found == replace(
        new,
        state="disabled",
        state_since=NOW + 1,
        state_reason="410 Gone",
        failing_since=NOW,
        paused_until=NOW + 60,
        created_at=NOW,
        start_at=NOW - 5,
        secrets=FULL.secrets,
        callback=False,
    )


async def test_a_rotated_secret_is_kept_for_a_while_behind_the_new_one(store: Store) -> None:
    await store.subscriptions.create(FULL)
    for nth in range(3):  # all in one moment: the current one is the one that does not expire
        await store.secrets.add_secret("sub_full", f"whsec_{nth}", NOW, old_expire_at=NOW + nth)
    current, *old = await store.secrets.of("sub_full")
    assert current == SigningSecret(value="whsec_2")
    assert {secret.value: secret.expires_at for secret in old} == {
        **{"whsec_very-secret": NOW, "whsec_0": NOW + 1, "whsec_1": NOW + 2},
    }


async def test_a_removed_subscription_takes_secrets_and_links_but_leaves_its_deliveries(store: Store) -> None:
    await store.subscriptions.create(FULL)
    sub = await callback_for(store, "https://callback.example", "sub_callback", NOW)
    uid = await track(store, callback_subscription_id=sub)
    (leased, *_) = (await store.jobs.record(poll(uid, 0, "failed", lease=lease("sub_full", sub)))).claimed
    for name in ("sub_full", sub):
        await store.subscriptions.remove(name, NOW + 1)
    left = await counts(store)
    assert (left["subscriptions"], left["secrets"], left["job_callbacks"], left["deliveries"]) == (0, 0, 0, 2)
    shown = await store.deliveries.get(leased.id)
    assert shown is not None
    assert (shown.state, shown.ended_at, shown.reason) == ("cancelled", NOW + 1, "subscription_removed")
    made_anew = await callback_for(store, "https://callback.example", "sub_anew", NOW)
    assert made_anew == "sub_anew"


async def test_a_subscription_declared_again_keeps_what_it_got_while_the_old_one_is_cancelled(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = subscription("crm")
    await store.subscriptions.create(declared)
    uid = await track(store, "old")
    await store.jobs.record(poll(uid, 0, "failed"))
    cancel_all = store.subscriptions._cancel_all

    async def first_declared_again(id: str, now: float) -> None:
        await store.subscriptions.create(replace(declared, created_at=now + 1))
        await store.jobs.record(poll(uid, 1, "failed", now=now + 2))
        await store.jobs.record(poll(await track(store, "new"), 0, "failed", now=now + 2))
        await cancel_all(id, now)

    monkeypatch.setattr(store.subscriptions, "_cancel_all", first_declared_again)
    await store.subscriptions.remove("crm", NOW + 1)
    found = await rows(store, "SELECT state, created_at FROM deliveries ORDER BY created_at, id")
    assert [(row["state"], row["created_at"]) for row in found] == [
        ("cancelled", NOW),
        ("pending", NOW + 3),
        ("pending", NOW + 3),
    ]


async def test_a_subscription_declared_again_starts_with_what_the_old_one_did_not_deliver(store: Store) -> None:
    declared = subscription("crm")
    await store.subscriptions.create(declared)
    for name in ("delivered", "dead", "cancelled"):
        await store.jobs.record(poll(await track(store, name), 0, "failed"))
        if name != "cancelled":
            (one,) = await claim(store, "crm")
            await store.deliveries.record(result_of(one, name))
    await store.subscriptions.remove("crm", NOW + 1)
    await store.jobs.record(poll(await track(store, "missed"), 0, "failed", now=NOW + 2))
    await store.jobs.record(poll(await track(store, "twice"), 0, "failed", "failed", now=NOW + 2))
    await store.subscriptions.create(replace(declared, created_at=NOW + 3, start_at=NOW - 1))
    assert sorted(await states(store, "crm")) == ["blocked", "delivered", *["pending"] * 4]
    claimed = await claim(store, "crm", now=NOW + 3)
    assert {one.attempt_count for one in claimed} == {0}
    assert sorted(one.made_count for one in claimed) == [0, 0, 0, 1], "the dead one keeps its attempt"
    assert sum(one.round_id != one.id for one in claimed) == 2, "what it was before may have been sent elsewhere"


async def stored_bytes(store: Store) -> bytes:
    """Everything the database stores, as stored: every row, and SQLite's files."""
    found: list[bytes] = []
    for table in SQLModel.metadata.tables:
        for row in await rows(store, f"SELECT * FROM {table}"):
            found += [value if isinstance(value, bytes) else str(value).encode() for value in row.values()]
    if isinstance(store.database, SqliteDatabase):
        path = store.database.path
        files = [one for one in path.parent.iterdir() if one.name.startswith(path.name)]
        assert len(files) > 1
        found += [one.read_bytes() for one in files]
    return b"\n".join(found)


async def test_nothing_that_can_be_a_credential_is_stored_as_it_is(
    open_again: Callable[..., Awaitable[Store]],
) -> None:
    keyring = Keyring([new_key()])
    store = await open_again(keyring)
    await store.subscriptions.create(FULL)
    await callback_for(store, "https://callback.example/callback-token", "sub_1", NOW)
    await store.secrets.add_secret(CALLBACK_OWNER, "whsec_callback-secret", NOW)
    await store.secrets.add_secret(SIGNING_OWNER, "whsk_private-key", NOW)
    await store.secrets.add_secret("sub_full", "whsec_rotated", NOW, old_expire_at=NOW + 5)
    await store.idempotency.begin("key", "digest", "holder", NOW, 0.0)
    await store.idempotency.end(
        "key", "holder", 201, b'{"secret": "whsec_answer"}', {"Location": "/v1/header-of-answer"}
    )
    assert await store.subscriptions.get("sub_full") is not None

    words = (
        *("sink-password", "sink-token", "sink-query", "hooks.example", "header-token", "X-Twice", "Authorization"),
        *("very-secret", "callback-token", "callback.example", "callback-secret", "rotated", "whsec_"),
        *("private-key", "whsk_"),
        *("whsec_answer", "header-of-answer"),
    )

    async def found(store: Store) -> list[str]:
        raw = await stored_bytes(store)
        assert b"ai.revor.job.failed" in raw  # the right place, and a readable one
        return [word for word in words if word.encode() in raw]

    assert await found(store) == []
    await store.close()
    again = await open_again(keyring)
    assert await found(again) == []
    assert (await again.subscriptions.get("sub_full")) is not None


async def test_a_ciphertext_copied_to_another_row_does_not_open_there(
    open_again: Callable[..., Awaitable[Store]],
) -> None:
    store = await open_again(Keyring([new_key()]))
    await store.subscriptions.create(FULL)
    await store.subscriptions.create(subscription("sub_1"))
    await execute(
        store,
        "UPDATE subscriptions SET sealed = (SELECT sealed FROM subscriptions WHERE id = 'sub_full') WHERE id = 'sub_1'",
    )
    with pytest.raises(RelayError, match="another row"):
        await store.subscriptions.get("sub_1")


async def test_applied_changes_are_one_transaction_of_every_node(store: Store) -> None:
    for id in ("changed", "removed"):
        await store.subscriptions.create(subscription(id, ordering="none"))
    await store.jobs.record(poll(await track(store), 0, "queued", "failed"))
    found = {one.id: one for one in await store.subscriptions.all()}
    after = replace(found["changed"], sink="https://new.example/", ordering="job")
    changes = [
        Change(id="added", action="add", after=subscription("added")),
        Change(id="changed", action="change", before=found["changed"], after=after, new_secret="whsec_new"),
        Change(id="removed", action="remove", before=found["removed"]),
    ]
    version = store.subscriptions.version

    assert await store.subscriptions.pending("removed") == 2
    with pytest.raises(
        Conflict, match="2 pending deliveries of the subscription removed would be cancelled"
    ) as refused:
        await store.subscriptions.apply(changes, NOW + 5, secrets_expire_at=NOW + 60)
    assert refused.value.code == "pending_deliveries"
    assert {one.id: one for one in await store.subscriptions.all()} == found
    assert await states(store, "removed") == ["pending", "pending"]

    await store.subscriptions.apply(changes, NOW + 5, secrets_expire_at=NOW + 60, cancel_pending=True)

    stored = {one.id: one for one in await store.subscriptions.all()}
    assert stored.keys() == {"added", "changed"}
    assert replace(stored["changed"], secrets=()) == after
    assert [(one.value, one.expires_at) for one in stored["changed"].secrets][:1] == [("whsec_new", None)]
    assert store.subscriptions.version > version
    assert await states(store, "changed") == ["pending", "blocked"], "its deliveries are in order again"
    assert set(await states(store, "removed")) == {"cancelled"}
    with pytest.raises(Conflict) as refused:
        await store.subscriptions.apply(changes, NOW + 6, secrets_expire_at=NOW + 60)
    assert refused.value.code == "subscriptions_changed"
    assert {one.id: one for one in await store.subscriptions.all()} == stored


async def test_a_removal_cancels_a_long_backlog_in_pieces(store: Store) -> None:
    for name in ("sub_1", "sub_2"):
        await store.subscriptions.create(subscription(name, types=("ai.revor.job.queued", "relay.source.down")))
    batch = [registration(f"job {n}") for n in range(CANCEL_CHUNK + 50)]
    await store.jobs.register_many(batch)
    await together(store, *(store.jobs.record(poll(one.job.uid, 0, "queued", "queued")) for one in batch[:450]))
    await together(store, *(store.jobs.record(poll(one.job.uid, 0, "queued", "queued")) for one in batch[450:]))
    await store.events.record(relay_event())
    before = store.database.commit_count
    await store.subscriptions.remove("sub_1", NOW + 1)
    assert store.database.commit_count == before + 3
    assert set(await states(store, "sub_1")) == {"cancelled"}
    assert "cancelled" not in await states(store, "sub_2")


async def test_a_long_backlog_is_cancelled_although_statistics_say_that_the_tables_are_empty(store: Store) -> None:
    """PostgreSQL then plans each table with one row: a sub-query that it read again for each row took a minute."""
    await test_a_removal_cancels_a_long_backlog_in_pieces(store)
    if store.database.shared:
        for table in ("attempts", "deliveries", "events", "jobs", "subscriptions"):
            await execute(store, f"DELETE FROM {table}")
            await execute(store, f"ANALYZE {table}")
        await test_a_removal_cancels_a_long_backlog_in_pieces(store)
