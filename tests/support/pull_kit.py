"""A program that pulls, on a store and a clock that a test sets."""

from collections.abc import Sequence

from relay.core.deliveries.delivery import Claimed
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.pulls import Pulls
from relay.metrics import Metrics
from relay.signals import Signals
from relay.store.store import Store
from tests.support.delivery_kit import shared
from tests.support.store_kit import NOW, PUBLISHED_TYPE, job_event, poll, publication, subscription, track

SCHEDULE = (5.0, 300.0)
SUB = subscription("sub_pull", kind="pull", sink="", types=None, retry_schedule_seconds=SCHEDULE)
"""Two entries: three attempts."""


class Program:
    """Pulls from one subscription. `now` is the time on both clocks."""

    def __init__(self, store: Store, of: Subscription = SUB) -> None:
        self.store = store
        self.of = of
        self.now = NOW + 1
        self.signals = Signals()
        self.metrics = Metrics()
        self.events: list[Event] = []
        of_program = shared(store, lambda: self.now, signals=self.signals, metrics=self.metrics)
        of_program.recorded = self.events.append  # type: ignore[method-assign]
        self.pulls = Pulls(of_program)

    async def pull(self, count: int = 100, lease_seconds: float = 60.0) -> tuple[Claimed, ...]:
        claimed, _ = await self.pulls.pull(self.of, count, lease_seconds)
        return claimed

    async def ack(self, *claimed: Claimed) -> list[str]:
        settled = await self.pulls.ack(self.of, [one.id for one in claimed])
        return list(settled.answers.values())

    async def nack(self, *claimed: Claimed, delay_seconds: float | None = None) -> tuple[list[str], tuple[str, ...]]:
        settled = await self.pulls.nack(self.of, [one.id for one in claimed], delay_seconds)
        return list(settled.answers.values()), settled.returned

    async def give_back(self, *claimed: Claimed) -> list[str]:
        settled = await self.pulls.give_back(self.of, [one.id for one in claimed])
        return list(settled.answers.values())


async def jobs(store: Store, *lengths: int) -> list[str]:
    """The uids of jobs with so many events each. Those of the first are the oldest."""
    uids = []
    for nth, length in enumerate(lengths):
        uid = await track(store, f"job {nth}")
        at = NOW + nth / 100
        events = [job_event(uid, sequence, now=at + sequence / 1000) for sequence in range(1, length + 1)]
        await store.jobs.record(poll(uid, 0, *["running"] * length, events=events, now=at))
        uids.append(uid)
    return uids


async def published(store: Store, *keys: str | None) -> None:
    """Publishes an event with each partition key."""
    for nth, key in enumerate(keys):
        await store.published.record([publication(f"{key} {nth}", key=key)])


def places(claimed: Sequence[Claimed], uids: Sequence[str]) -> list[tuple[int, int | None]]:
    """The job's number and the sequence of each."""
    return [(uids.index(str(one.order_key)), one.event.sequence) for one in claimed]


TYPES = (PUBLISHED_TYPE,)
