"""Building blocks of the store's tests: values with short names, and direct access to the tables."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, NamedTuple

import orjson
from sqlalchemy import text
from sqlalchemy.engine import Connection

from relay.core.access.sign_in import Session
from relay.core.access.tokens import AccessToken
from relay.core.deliveries.bundles import Bundle, Room
from relay.core.deliveries.delivery import Attempt, Claimed
from relay.core.events.event import Event, Hint, stream_of
from relay.core.jobs.connect_accounts import ConnectAccount
from relay.core.jobs.job import Observation, Problem, Progress
from relay.core.jsontext import dumps
from relay.core.polling.tracking import Registration, TrackRequest
from relay.core.published import Publication, identity_of
from relay.core.records import (
    AttemptRecorded,
    AttemptResult,
    Claim,
    Intent,
    Lease,
    ListingRecord,
    PollRecord,
    WantedCallback,
)
from relay.core.subscriptions.subscription import Subscription
from relay.ids import new_id
from relay.store.databases.postgres import PostgresDatabase
from relay.store.databases.sqlite import SqliteDatabase
from relay.store.deliveries.claims import ClaimRequest
from relay.store.store import Store

NOW = 1_800_000_000.0
SOURCE = "https://revor.ai/api/v1/outreach/jobs"
ALL_PRIORITIES = (0, 1, 2)
_counter = itertools.count(1)


class ReversingCipher:
    """Hides plaintext from a reader of the file and binds it to its context; fast."""

    def encrypt(self, plaintext: bytes, *, context: str) -> bytes:
        return (context.encode() + b"\0" + plaintext)[::-1]

    def decrypt(self, blob: bytes, *, context: str) -> bytes:
        found, _, plaintext = blob[::-1].partition(b"\0")
        assert found == context.encode()
        return plaintext


def registration(external_id: str, **fields: Any) -> Registration:
    """A registration whose fields are those of `TrackRequest`, `Registration` and its job. `deadline_given`: the
    request has the deadline."""
    now = fields.pop("tracked_at", NOW)
    uid = fields.pop("uid", None) or new_id("job", now)
    seconds, progress = fields.pop("deadline_seconds", 604_800.0), fields.pop("progress", Progress())
    names = ("events", "callback_subscription_id", "max_callbacks")
    own = {name: fields.pop(name) for name in names if name in fields}
    given = seconds if fields.pop("deadline_given", False) else None
    values = {"source": "revor", "account": "default", "deadline_seconds": given, **fields}
    request = TrackRequest(external_id=external_id, **values)
    return Registration(job=request.job(uid, now, seconds, progress), request=request, **own)


def access_token(id: str, secret: str | None = None, **fields: Any) -> AccessToken:
    """A token of the database; its secret and name are made from its id unless given."""
    digest = sha256((secret or f"rl_{id}").encode()).hexdigest()
    values: dict[str, Any] = {"name": id, "scopes": frozenset({"read"}), "created_at": NOW, "created_by": "ops"}
    return AccessToken(id=id, digest=digest, **{**values, **fields})


def session(digest: str, token: str = "token 1", **fields: Any) -> Session:
    """A session of the dashboard that has just begun."""
    values: dict[str, Any] = {"kind": "session", "name": "ops", "created_at": NOW, "expires_at": NOW + 60}
    return Session(digest=digest, token_digest=token, **{**values, **fields})


def intent(sent_at: float = NOW, **fields: Any) -> Intent:
    """A create that is about to be sent."""
    values: dict[str, Any] = {
        "id": new_id("int", sent_at),
        "source": "revor",
        "account": "default",
        "path": "/api/v1/outreach/dispatches",
        "body_digest": "digest",
    }
    return Intent(created_at=sent_at, **{**values, **fields})


def job_event(job_uid: str, sequence: int, kind: str = "running", *, now: float = NOW, **fields: Any) -> Event:
    values: dict[str, Any] = {
        "id": new_id("evt", now),
        "source": SOURCE,
        "type": f"ai.revor.job.{kind}",
        "subject": f"subject of {job_uid}",
        "time": now,
        "recorded_at": now,
        "body": orjson.dumps({"sequence": sequence}),
        "owner": "revor/default",
    }
    return Event(job_uid=job_uid, sequence=sequence, **{**values, **fields})


def relay_event(type: str = "relay.source.down", *, now: float = NOW, **fields: Any) -> Event:
    values: dict[str, Any] = {"id": new_id("evt", now), "subject": None, "body": b"{}"}
    return Event(source="/relay", type=type, time=now, recorded_at=now, **{**values, **fields})


PUBLISHED_TYPE = "com.acme.order.paid"


def publication(
    id: str, *, key: str | None = None, source: str = "/shop", owner: str | None = None, **members: Any
) -> Publication:
    """An event of another program. `members`: of its body, besides the usual ones."""
    document = {"specversion": "1.0", "id": id, "source": source, "type": PUBLISHED_TYPE, **members}
    event = Event(
        id=new_id("evt", NOW),
        source=source,
        type=PUBLISHED_TYPE,
        subject=members.get("subject"),
        time=NOW,
        recorded_at=NOW,
        body=dumps(document if key is None else {**document, "partitionkey": key}),
        stream=None if key is None else stream_of(owner, key),
        owner=owner,
        published=True,
    )
    return Publication(event, identity_of(owner, source, id))


def seen(status: str = "running", now: float = NOW, **fields: Any) -> Observation:
    return Observation(status=status, observed_at=now, upstream=fields.pop("upstream", {"status": status}), **fields)


def poll(
    job_uid: str, expected: int, *kinds: str, now: float = NOW, events: Sequence[Event] | None = None, **fields: Any
) -> PollRecord:
    """A record that takes a job from sequence `expected` through these kinds of events."""
    if events is None:
        events = [job_event(job_uid, expected + nth, kind, now=now) for nth, kind in enumerate(kinds, 1)]
    last = kinds[-1] if kinds else "running"
    progress = Progress(status=last, phase=last, sequence=expected + len(events))
    values: dict[str, Any] = {"seen": seen(last, now), "progress": progress}
    return PollRecord(
        job_uid=job_uid, expected_sequence=expected, events=tuple(events), now=now, **{**values, **fields}
    )


async def callback_for(store: Store, url: str, id: str, now: float, owner: str | None = None) -> str:
    """The callback subscription of a URL, made with this id if there is none."""
    (found,) = await store.subscriptions.callbacks_for([WantedCallback(url, id)], now, owner)
    assert found is not None
    return found


def subscription(id: str, **fields: Any) -> Subscription:
    values: dict[str, Any] = {"sink": f"https://{id.replace('_', '-')}.example/hook", "created_at": NOW}
    return Subscription(id=id, **{**values, **fields})


def lease(*subscription_ids: str, token: str | None = None, until: float = NOW + 45.0) -> Lease:
    token = f"lease-{next(_counter)}" if token is None else token
    return Lease(token=token, until=until, subscription_ids=frozenset(subscription_ids))


def attempt(number: int = 1, **fields: Any) -> Attempt:
    values: dict[str, Any] = {"started_at": NOW, "duration_ms": 12.5, "status_code": 204}
    return Attempt(number=number, **{**values, **fields})


def result_of(claimed: Claimed, state: str = "delivered", *, now: float = NOW, **fields: Any) -> AttemptResult:
    values: dict[str, Any] = {
        "attempt": attempt(claimed.made_count + 1, started_at=now),
    }
    return AttemptResult(claimed=claimed, state=state, now=now, **{**values, **fields})


async def track(store: Store, external_id: str = "a job", **fields: Any) -> str:
    """The uid of a new job."""
    registered = await store.jobs.register(registration(external_id, **fields))
    return registered.job.uid


async def claim(
    store: Store, subscription_id: str, count: int = 100, *, now: float = NOW, **fields: Any
) -> tuple[Claimed, ...]:
    values: dict[str, Any] = {"priorities": ALL_PRIORITIES, "lease": lease(until=now + 45.0)}
    request = ClaimRequest(subscription_id=subscription_id, requests=count, now=now, **{**values, **fields})
    found = await store.deliveries.claim(request)
    return tuple(one for (one,) in found.requests)


async def claim_bundle(
    store: Store, subscription_id: str, priorities: tuple[int, ...], bundle: Bundle, room: Room, *more: Any
) -> Claim:
    """`more`: for how many requests, at what time, under which lease."""
    requests, now, held = more
    return await store.deliveries.claim(
        ClaimRequest(
            subscription_id=subscription_id,
            priorities=priorities,
            bundle=bundle,
            room=room,
            requests=requests,
            now=now,
            lease=held,
        )
    )


class Probe(NamedTuple):
    """A probe that was claimed, and when the next one is due."""

    claimed: Claimed | None
    next_at: float | None


async def claim_probe(store: Store, subscription_id: str, now: float, held: Lease) -> Probe:
    request = ClaimRequest(subscription_id=subscription_id, now=now, lease=held, probe=True)
    found = await store.deliveries.claim(request)
    return Probe(found.requests[0][0] if found.requests else None, found.next_at)


async def record_one(store: Store, result: AttemptResult) -> AttemptRecorded:
    """Records the attempt of a single delivery."""
    (recorded,) = await store.deliveries.record(result)
    return recorded


async def deliver_all(store: Store, subscription_id: str, *, now: float = NOW) -> list[Claimed]:
    """Delivers what is due until nothing is left. Returns it in delivery order."""
    done: list[Claimed] = []
    while claimed := await claim(store, subscription_id, now=now):
        for one in claimed:
            assert (await store.deliveries.record(result_of(one, now=now)))[0].kept
            done.append(one)
    return done


async def list_accounts(
    store: Store, place: tuple[str, str], *ids: str, state: str = "ok", now: float = NOW, **fields: Any
) -> None:
    """Records a listing of connect accounts, all in one state."""
    source, account = place
    changed = tuple(
        ConnectAccount(source=source, account=account, id=id, state=state, since=now, told_state=state, **fields)
        for id in ids
    )
    known = await store.connect_accounts.known(*place)
    assert await store.connect_accounts.record(ListingRecord(known=known, now=now, changed=changed))


async def fail_for(
    store: Store, connect_account_id: str, *, now: float = NOW, points_at: str | None = "connect_account", **fields: Any
) -> None:
    """A job of revor/default that fails because of its connect account: that opens an incident."""
    uid = await track(store, f"fails for {connect_account_id} {next(_counter)}", tracked_at=now)
    problem = Problem(code=fields.pop("code", "account_disconnected"), message="")
    observation = seen("failed", now, problem=problem, connect_account_id=connect_account_id, channel="linkedin")
    hint = Hint(meaning="It needs reconnecting", fix="Reconnect it", who="owner", repeat="safe", points_at=points_at)
    failed = [job_event(uid, 1, "failed", now=now)]
    await store.jobs.record(poll(uid, 0, events=failed, now=now, seen=observation, outcome="failed", hint=hint))


async def rows(store: Store, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of an SQL query."""

    def query(connection: Connection) -> list[dict[str, Any]]:
        return [dict(row._mapping) for row in connection.execute(text(sql), parameters)]

    return await store.database.read(query)


async def deliveries(store: Store, subscription_id: str | None = None) -> list[dict[str, Any]]:
    """All deliveries, by job and sequence."""
    found = await rows(store, "SELECT * FROM deliveries ORDER BY job_uid, sequence, subscription_id")
    return [row for row in found if subscription_id in (None, row["subscription_id"])]


async def states(store: Store, subscription_id: str | None = None) -> list[str]:
    """The states of all deliveries, by job and sequence."""
    return [row["state"] for row in await deliveries(store, subscription_id)]


async def counts(store: Store) -> Mapping[str, int]:
    """Number of rows per table."""
    tables = ("jobs", "events", "deliveries", "attempts", "subscriptions", "secrets", "job_callbacks")
    return {name: (await rows(store, f"SELECT COUNT(*) AS n FROM {name}"))[0]["n"] for name in tables}


async def execute(store: Store, sql: str, **parameters: Any) -> None:
    """Writes directly to the database."""

    def batch(connection: Connection, items: Sequence[None]) -> list[None]:
        connection.execute(text(sql), parameters)
        return [None] * len(items)

    await store.database.write(batch, None)


async def together(store: Store, *writes: Awaitable[Any]) -> list[Any]:
    """Makes all these writes share one group. Returns their results or errors."""
    async with held_writer(store):
        tasks = [asyncio.ensure_future(write) for write in writes]
        await asyncio.sleep(0)  # one turn of the loop, in which each task gets as far as its future
        assert sum(len(writer._waiting) for writer in _writers(store)) == len(tasks)
    return await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def held_writer(store: Store) -> AsyncIterator[None]:
    """An empty group waits at the beginning of its transaction until the block ends."""
    database, writers = store.database, _writers(store)
    release = _hold(database)
    try:
        holders = [asyncio.ensure_future(writer.write(_nothing, None)) for writer in writers]
        await asyncio.sleep(0)
        await until(lambda: not any(writer._waiting for writer in writers))
        yield
    finally:
        release()
    await asyncio.gather(*holders)


def _writers(store: Store) -> list[Any]:
    """The queues of the database: on PostgreSQL, single statements have their own."""
    database = store.database
    return [database.writer, database.caller] if isinstance(database, PostgresDatabase) else [database.writer]


async def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Polls a condition that has no event of its own."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def _nothing(connection: Connection, items: Sequence[None]) -> list[None]:
    return [None] * len(items)


def _hold(database: Any) -> Callable[[], None]:
    if isinstance(database, SqliteDatabase):
        gate, begin = threading.Event(), database.begin

        def held() -> Connection:
            assert gate.wait(30)
            return begin()

        database.begin = held  # type: ignore[method-assign]
        return lambda: (gate.set(), setattr(database, "begin", begin))[0]
    free = asyncio.Event()
    before = {writer: writer._transaction for writer in (database.writer, database.caller)}

    def holding(transaction: Callable[[], Any]) -> Callable[[], Any]:
        @asynccontextmanager
        async def waiting() -> AsyncIterator[Any]:
            async with asyncio.timeout(120):
                await free.wait()
            async with transaction() as run:
                yield run

        return waiting

    def release() -> None:
        free.set()
        for writer, transaction in before.items():
            writer._transaction = transaction

    for writer, transaction in before.items():
        writer._transaction = holding(transaction)
    return release
