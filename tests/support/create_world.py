"""Callers that send creates through a relay that is killed, and the checks afterwards.

The upstream's ledger has the body behind each job; the callers' ledger has each body, how often it was sent, and the
job its answer named. Every body is unique, so the two can be compared.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import aiohttp
import orjson

from relay.sandbox.bodies import DISPATCH_PATH, dispatch_body
from tests.support.kill_world import API_KEY, OWED_SECONDS, START_SECONDS, World, open_world

KEYED_SHARE = 0.5
THINKING_SECONDS = 0.02
"""Maximum pause of a caller between two creates."""
IN_FLIGHT_SECONDS = 1.0
"""In place of ten minutes: on a shared database only time shows that a create was interrupted."""
POLL_AGAIN_SECONDS = 0.05

Came = Literal["answer", "nothing", "refusal"]
"""What a caller got: an answer; no answer, so it may have been carried out; or no connection."""


@dataclass(slots=True, kw_only=True)
class Order:
    """One create as its caller knows it. `sent`: how often it was sent; `job_id`: the job its answer named."""

    number: int
    key: str | None
    body: bytes = field(repr=False)
    sent: int = 0
    job_id: str | None = None

    @property
    def digest(self) -> str:
        return f"sha256:{sha256(self.body).hexdigest()}"

    @property
    def metadata(self) -> dict[str, Any]:
        return {"order": self.number}


@dataclass(kw_only=True)
class Callers:
    """Callers that send creates through the relay, and their ledger. `name` makes bodies and keys unique."""

    world: World
    name: str
    rng: random.Random
    orders: list[Order] = field(default_factory=list)
    answered: int = 0

    def new_order(self, *, keyed: bool) -> Order:
        number = len(self.orders)
        body = dispatch_body(number)
        body["content"] = {"text": f"{self.name}, message {number}"}
        key = f"{self.name}-{number}" if keyed else None
        order = Order(number=number, key=key, body=orjson.dumps(body))
        self.orders.append(order)
        return order

    async def send(self, order: Order) -> Came:
        """Sends the create once."""
        headers = {
            "Authorization": f"Bearer {API_KEY}",
            "Content-Type": "application/json",
            "Relay-Metadata": orjson.dumps(order.metadata).decode(),
            **({} if order.key is None else {"Idempotency-Key": order.key}),
        }
        try:
            url = f"{self.world.relay.url}{DISPATCH_PATH}"
            async with self.world.session.post(url, data=order.body, headers=headers) as response:
                answer = orjson.loads(await response.read())
        except aiohttp.ClientConnectorError:
            return "refusal"
        except (aiohttp.ClientError, TimeoutError):
            order.sent += 1
            return "nothing"
        order.sent += 1
        assert response.status == 202, answer
        assert order.job_id in (None, answer["item"]["id"]), "a repeat was answered with another job"
        order.job_id = answer["item"]["id"]
        self.answered += 1
        return "answer"

    async def place(self, order: Order) -> None:
        """Sends the create until it was sent once; with a key, until it is answered. Without a key a create that may
        have been carried out is never repeated."""
        latest = time.monotonic() + START_SECONDS + OWED_SECONDS
        while time.monotonic() < latest:
            came = await self.send(order)
            if came == "answer" or (came == "nothing" and order.key is None):
                return
            await asyncio.sleep(POLL_AGAIN_SECONDS)
        raise AssertionError(f"{order} could not be placed:\n{self.world.relay.log_tail()}")

    async def place_until(self, done: asyncio.Event) -> None:
        """Sends one order after another."""
        while not done.is_set():
            await self.place(self.new_order(keyed=self.rng.random() < KEYED_SHARE))
            await asyncio.sleep(self.rng.uniform(0.0, THINKING_SECONDS))

    async def until_answered(self, count: int) -> None:
        """Waits until the given number of creates was answered."""
        latest = time.monotonic() + START_SECONDS
        while self.answered < count:
            assert time.monotonic() < latest, f"no create is answered:\n{self.world.relay.log_tail()}"
            await asyncio.sleep(POLL_AGAIN_SECONDS / 10)


@contextlib.asynccontextmanager
async def open_create_world(folder: Path, seed: str, database: str) -> AsyncIterator[Callers]:
    """A sandbox, a relay not yet started, and callers that have sent nothing."""
    async with open_world(folder, seed, database=database) as world:
        if database == "postgresql":
            world.relay.constants["relay.store.jobs.intents:IN_FLIGHT_SECONDS"] = IN_FLIGHT_SECONDS
        yield Callers(world=world, name=seed, rng=random.Random(f"callers:{seed}"))


# --- the two ledgers and the relay's own books


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The jobs the upstream made, those the relay tracks, and the creates of unknown outcome."""

    made: Mapping[str, str]
    """The digest of the creating body, by job id."""
    tracked: Mapping[str, Mapping[str, Any]]
    intents: Sequence[Mapping[str, Any]]
    received: int
    """The number of creates the upstream received."""

    @property
    def unknown(self) -> set[str]:
        """The body digests of creates of unknown outcome."""
        return {intent["body_digest"] for intent in self.intents}

    @property
    def lost(self) -> list[str]:
        """The jobs the relay neither tracks nor lists as unknown."""
        return [id for id, digest in self.made.items() if id not in self.tracked and digest not in self.unknown]


async def books_of(world: World) -> Books:
    async with world.session.get(f"{world.sandbox_url}/_sandbox/requests") as response:
        counts = (await response.json())["by_kind"]
    intents = await all_items(world, "/v1/intents")  # read before the jobs: a registration removes its intent
    return Books(
        made={job_id: truth["body_digest"] for job_id, truth in (await world.truths()).items()},
        tracked={job["id"]: job for job in await all_items(world, "/v1/jobs")},
        intents=intents,
        received=counts.get("POST dispatch", 0),
    )


async def all_items(world: World, path: str) -> list[dict[str, Any]]:
    """All items of a list."""
    items: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await world.get(f"{path}?limit=500{cursor}")
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


async def settled_books(callers: Callers, *, made: int = 0, unknown: int = 0) -> Books:
    """The books, once at least the given numbers of jobs are made and creates listed, and the relay has every job.

    The upstream still reads after a relay is killed, and on a shared database only time shows what was interrupted."""
    latest = time.monotonic() + OWED_SECONDS
    while (books := await books_of(callers.world)).lost or len(books.made) < made or len(books.intents) < unknown:
        assert time.monotonic() < latest, f"{books}\n{callers.world.relay.log_tail()}"
        await asyncio.sleep(POLL_AGAIN_SECONDS)
    return books


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateReport:
    """Counts of outcomes.

    repeated      creates with a key that were sent more than once
    unanswered    creates without a key and without an answer
    reported, unreported  tracked jobs, by whether their callers got their ids
    unknown       listed creates; `unknown_made` of them were carried out"""

    kills: int
    orders: int
    keyed: int
    sent: int
    received: int
    jobs: int
    reported: int
    unreported: int
    unknown: int
    unknown_made: int
    repeated: int
    unanswered: int

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.orders} creates, {self.keyed} with a key: sent {self.sent} times and received "
            f"{self.received} times, {self.repeated} repeated, {self.unanswered} not and unanswered; {self.jobs} jobs, "
            f"{self.reported} reported and {self.unreported} unreported jobs are tracked; {self.unknown} creates of "
            f"unknown fate are listed, {self.unknown_made} of them made one"
        )


def total(reports: Sequence[CreateReport]) -> CreateReport:
    """The sum over several worlds."""
    return CreateReport(
        **{each.name: sum(getattr(report, each.name) for report in reports) for each in fields(CreateReport)}
    )


async def check_the_ledgers(callers: Callers) -> CreateReport:
    """Compares the upstream's ledger, the callers' ledger and the relay's books."""
    world = callers.world
    await world.relay.ready(world.session)
    books = await settled_books(callers)
    by_digest = {order.digest: order for order in callers.orders}
    assert len(by_digest) == len(callers.orders), "each body is one of a kind"

    # nothing was made that was not sent, and nothing twice
    assert set(books.made.values()) - set(by_digest) == set()
    assert {digest: n for digest, n in Counter(books.made.values()).items() if n > 1} == {}
    assert books.received <= sum(order.sent for order in callers.orders), "the relay sent a create of no caller"

    # each answer named the right job; with a key every create was answered in the end
    for order in callers.orders:
        if order.job_id is not None:
            assert books.made[order.job_id] == order.digest, order
        assert order.job_id is not None or order.key is None, order

    # every tracked job has what its caller attached, whether its caller knows the job or not
    for order in callers.orders:
        if order.job_id is not None:
            assert (await world.get(f"/v1/jobs/{order.job_id}"))["metadata"] == order.metadata
    for job_id, job in books.tracked.items():
        assert job["metadata"] == by_digest[books.made[job_id]].metadata

    # every other create has an intent, tracked jobs have none, and no create with a key is left over
    assert books.lost == []
    assert {job_id for job_id in books.tracked if books.made[job_id] in books.unknown} == set()
    assert len(books.unknown) == len(books.intents)
    for intent in books.intents:
        order = by_digest[intent["body_digest"]]
        assert (order.key, order.job_id, order.sent) == (None, None, 1), (order, intent)
        assert (intent["reason"], intent["status_code"], intent["idempotency_key"]) == ("cut_off", None, None)
        assert (intent["path"], intent["account"]) == (DISPATCH_PATH, "default")

    reported = {order.job_id for order in callers.orders if order.job_id is not None}
    return CreateReport(
        kills=len(world.relay.kills),
        orders=len(callers.orders),
        keyed=sum(order.key is not None for order in callers.orders),
        sent=sum(order.sent for order in callers.orders),
        received=books.received,
        jobs=len(books.made),
        reported=len(reported),
        unreported=len(set(books.tracked) - reported),
        unknown=len(books.intents),
        unknown_made=len(books.unknown & set(books.made.values())),
        repeated=sum(order.key is not None and order.sent > 1 for order in callers.orders),
        unanswered=sum(order.job_id is None for order in callers.orders),
    )
