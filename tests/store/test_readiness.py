"""What /readyz notes of the database's contents."""

import pytest

from relay.node.readiness import readiness
from relay.store.databases.probe import WriteProbe
from relay.store.store import Store
from tests.support.store_kit import NOW, claim, poll, result_of, subscription, track


@pytest.mark.parametrize(
    ("count", "notes"),
    [
        (0, ()),
        (1, ("1 delivery is uncertain: see GET /v1/deliveries?state=uncertain",)),
        (2, ("2 deliveries are uncertain: see GET /v1/deliveries?state=uncertain",)),
    ],
)
async def test_uncertain_deliveries_are_noted(store: Store, count: int, notes: tuple[str, ...]) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    for number in range(2):
        await store.jobs.record(poll(await track(store, f"job {number}"), 0, "queued"))
    for number, one in enumerate(await claim(store, "sub_1")):
        result = result_of(one, "uncertain" if number < count else "dead", reason="not_found_in_time")
        await store.deliveries.record(result)
    found = await readiness(store, WriteProbe(store.database), {}, {"api": True}, NOW)
    assert (found.notes, found.problems) == (notes, ())
