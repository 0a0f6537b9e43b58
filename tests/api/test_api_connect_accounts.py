"""`/v1/connect-accounts`: which accounts can send, for people and programs."""

import pytest

from relay.core.jobs.connect_accounts import SHOWN_STATES
from tests.support.api_world import NOW
from tests.support.store_kit import fail_for, list_accounts, track


@pytest.fixture
async def listed(world):
    """Two accounts of one upstream account, and one of another."""
    fields = {"channel": "linkedin", "name": "Ada", "status": "credentials", "can_send": False}
    await list_accounts(world.store, ("revor", "default"), "acc_1", state="needs_reconnect", now=NOW, **fields)
    await list_accounts(world.store, ("revor", "default"), "acc_2", now=NOW + 60)
    await list_accounts(world.store, ("revor", "emea"), "acc_1", state="removed", now=NOW + 90)
    for number in range(3):
        await track(world.store, f"job {number}", connect_account_id="acc_1")


async def ids(client, query=""):
    answer = await client.get(f"/v1/connect-accounts{query}")
    assert answer.status_code == 200, answer.text
    return [(one["account"], one["id"]) for one in answer.json()["items"]]


async def test_an_account_is_shown_with_its_open_jobs(client, listed):
    (one, *_) = (await client.get("/v1/connect-accounts")).json()["items"]
    assert one == {
        "id": "acc_1",
        "source": "revor",
        "account": "default",
        "channel": "linkedin",
        "name": "Ada",
        "status": "credentials",
        "can_send": False,
        "state": "needs_reconnect",
        "since": "2027-01-15T08:00:00.000Z",
        "open_jobs": 3,
        "failed_jobs": 0,
        "listed_at": "2027-01-15T08:01:00.000Z",
        "trouble": None,
    }


async def test_an_open_incident_is_shown_before_a_listing_shows_why(client, world, listed):
    async def shown():
        items = (await client.get("/v1/connect-accounts")).json()["items"]
        return [(one["account"], one["id"], one["trouble"]) for one in items]

    others = [("default", "acc_1", None), ("emea", "acc_1", None)]
    await fail_for(world.store, "acc_2", now=NOW + 61, code="insufficient_credits", points_at=None)
    assert await shown() == [others[0], ("default", "acc_2", None), others[1]], "no fault of the account"
    await fail_for(world.store, "acc_2", now=NOW + 62)
    await fail_for(world.store, "acc_2", now=NOW + 62)
    ((incident, *_),) = [[one["id"]] for one in (await client.get("/v1/incidents?state=open")).json()["items"]]
    assert await shown() == [others[0], ("default", "acc_2", incident), others[1]]
    await fail_for(world.store, "acc_2", now=NOW + 63, code="another_code")
    items = (await client.get("/v1/connect-accounts")).json()["items"]
    assert [one["failed_jobs"] for one in items] == [0, 3, 0], "of all its open incidents"


async def test_accounts_are_filtered_and_paged(client, listed):
    everything = [("default", "acc_1"), ("default", "acc_2"), ("emea", "acc_1")]
    assert await ids(client) == everything
    assert await ids(client, "?account=emea") == everything[2:]
    assert await ids(client, "?source=revor&account=default&state=ok") == everything[1:2]
    assert await ids(client, "?source=other") == []
    assert [len(await ids(client, f"?state={state}")) for state in SHOWN_STATES] == [1, 1, 0, 1]
    page = (await client.get("/v1/connect-accounts?limit=2")).json()
    assert await ids(client, f"?limit=2&cursor={page['next_cursor']}") == everything[2:]
