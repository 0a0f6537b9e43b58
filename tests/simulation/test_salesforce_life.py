"""Salesforce with a real store, real tokens and deliveries, at a strict stand-in of an org."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.subscriptions.subscription import Subscription
from relay.errors import CheckFailed
from subscribers.salesforce import Salesforce
from subscribers.salesforce.answers import DAILY_PAUSE_SECONDS
from tests.support.simulation_world import World, deliveries_of, end_job, open_world
from tests.vendors.salesforce import CLIENT_ID, CLIENT_SECRET, ORIGIN, TOKEN, Fault
from tests.vendors.salesforce import Salesforce as Org

EMAIL = "jane@example.com"
APP = {
    "credentialtype": "CLIENTCREDENTIALS",
    "token_url": f"{ORIGIN}/services/oauth2/token",
    "client_id": CLIENT_ID,
    "client_secret": CLIENT_SECRET,
}
GIVEN = {"credentialtype": "ACCESSTOKEN", "accesstoken": TOKEN}


@asynccontextmanager
async def open_org(folder: Path) -> AsyncIterator[tuple[World, Org]]:
    async with open_world(folder) as world:
        org = Org()
        org.add("Contact", LastName="Ng", Email=EMAIL)
        world.sink = org  # type: ignore[assignment]
        await world.restart()
        yield world, org


async def subscribe(world: World, sink: str = ORIGIN, given: dict[str, str] = APP, **options: Any) -> Subscription:
    credential = SinkCredential(id="crd_1", origin=origin_text(sink), fields=given)
    options = {"api_version": "60.0", **options}
    return await world.subscribe(sink=sink, kind="salesforce", credential=credential, options=options)


async def test_little_left_of_the_day_pauses_every_subscription_of_the_org(tmp_path):
    async with open_org(tmp_path) as (world, org):
        org.api_limit, org.api_used = 1000, 948
        both = [await subscribe(world), await subscribe(world, object="Task")]
        await end_job(world, "first", email=EMAIL)
        await end_job(world, "second", email=EMAIL)
        asked, written = len(org.calls), len(org.rows()) + len(org.rows("Task"))
        assert written < 4
        await world.run(3, (DAILY_PAUSE_SECONDS - 60) / 3)
        assert len(org.calls) == asked, "the org is left alone"
        org.api_used = 0
        await world.run(10, 60.0)
        assert (len(org.rows()), len(org.rows("Task"))) == (2, 2)
        for of in both:
            assert [one.state for one in await deliveries_of(world, of)] == ["delivered"] * 2


async def greeted(world: World, fields: dict[str, str]) -> dict[str, str]:
    """What the check before a subscription is stored finds."""
    credential = SinkCredential(id="crd_1", origin=origin_text(ORIGIN), fields=fields)
    of = Subscription(id="sub_1", sink=ORIGIN, kind="salesforce", credential=credential)
    steps = Salesforce().greeting(of, world.clock())
    assert steps is not None
    return dict(await world.dispatcher.greet(of, steps))


async def test_org_that_has_everything_is_accepted_and_tells_its_version(tmp_path):
    async with open_org(tmp_path) as (world, org):
        assert await greeted(world, APP) == {"portal": "acme.my.salesforce.com", "api_version": "66.0"}
        assert (org.rows(), org.refused) == ([], [])


REFUSED: list[tuple[dict[str, str], Callable[[Org], Any], str, str]] = [
    ({**APP, "client_id": "x"}, lambda org: None, "credential_refused", "(invalid_client_id)"),
    ({**APP, "client_secret": "s3cr3t-of-somebody"}, lambda org: None, "credential_refused", "(invalid_client)"),
    (APP, lambda org: setattr(org, "run_as", False), "credential_refused", "(invalid_grant)"),
    (APP, lambda org: setattr(org, "instance", "https://b.my.salesforce.com"), "credential_refused", "https://b.my."),
    ({**GIVEN, "accesstoken": "s3cr3t-of-somebody"}, lambda org: None, "credential_refused", "INVALID_SESSION_ID"),
    (GIVEN, lambda org: org.objects.pop("Job_Event__c"), "sink_incomplete", "deploy Job_Event__c"),
    (GIVEN, lambda org: org.read_only.add("Job_Event__c"), "sink_incomplete", "Create and Edit on Job_Event__c"),
    (GIVEN, lambda org: org.faults.append(Fault(status=302)), "sink_unreachable", "http_302"),
    (GIVEN, lambda org: org.faults.append(Fault(status=200, body=b"<html>")), "sink_unreachable", "not an answer"),
    (GIVEN, lambda org: setattr(org, "api_used", org.api_limit), "sink_unreachable", "REQUEST_LIMIT_EXCEEDED"),
]


@pytest.mark.parametrize(("fields", "prepare", "code", "said"), REFUSED, ids=[f"{row[2]} {row[3]}" for row in REFUSED])
async def test_org_that_lacks_something_is_refused_by_name(tmp_path, fields, prepare, code, said):
    async with open_org(tmp_path) as (world, org):
        prepare(org)
        with pytest.raises(CheckFailed) as refused:
            await greeted(world, fields)
        assert (refused.value.code, said in str(refused.value)) == (code, True), str(refused.value)
        for secret in ("s3cr3t", CLIENT_SECRET, TOKEN):
            assert secret not in str(refused.value)
        assert "resume" not in str(refused.value)
