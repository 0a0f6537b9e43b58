"""Limits on callbacks at registration: what is refused, what is tracked all the same, and what is asked of the
database."""

from typing import Any

import pytest

from relay.core.polling.tracking import CallbackLimits, TrackRequest
from relay.core.records import Registered
from relay.errors import InvalidRequest
from relay.polling import tracking as tracking_module
from tests.simulation.test_tracking_reports import tracking_of
from tests.support.simulation_world import open_world
from tests.support.store_kit import intent


def request(name: str, host: str, *, caller: str | None = "crm", **fields: Any) -> TrackRequest:
    url = f"https://{host}/hook"
    return TrackRequest(external_id=name, source="revor", account="default", callback_url=url, caller=caller, **fields)


async def test_callbacks_to_too_many_hosts_are_refused_before_anything_is_written(tmp_path):
    async with open_world(tmp_path) as world:
        tracking = tracking_of(world)
        tracking.configure(CallbackLimits(hosts_per_caller=2))
        hosts = ["a.example", "b.example", "c.example", "A.example.", "d.example"]
        results = await tracking.register([request(f"job-{host}", host) for host in hosts])
        assert [type(result) for result in results] == [
            Registered,
            Registered,
            InvalidRequest,
            Registered,
            InvalidRequest,
        ]
        assert isinstance(results[2], InvalidRequest)
        assert results[2].code == "too_many_callback_hosts"
        assert await world.store.jobs.find("job-c.example") == []
        page = await world.store.subscriptions.page(limit=50, callbacks=True)
        assert {one.sink for one in page.items} == {
            f"https://{host}/hook" for host in ("a.example", "b.example", "A.example.")
        }
        for caller in ("other", None):
            (result,) = await tracking.register([request("job", "c.example", caller=caller)])
            assert isinstance(result, Registered)
        tracking.configure(CallbackLimits(hosts_per_caller=3))
        (result,) = await tracking.register([request("job-c", "c.example")])
        assert isinstance(result, Registered)


async def test_a_known_host_costs_no_query_until_it_is_noted_again(tmp_path, monkeypatch):
    async with open_world(tmp_path) as world:
        tracking, asked = tracking_of(world), []
        claim = world.store.callback_hosts.claim

        async def counted(caller: str, hosts: list[str], *rest: Any) -> set[str]:
            asked.append((caller, tuple(hosts)))
            return await claim(caller, hosts, *rest)

        monkeypatch.setattr(world.store.callback_hosts, "claim", counted)
        await tracking.register([request("a", "a.example"), request("b", "a.example"), request("c", "b.example")])
        await tracking.register([request("d", "a.example"), request("e", "b.example")])
        assert asked == [("crm", ("a.example", "b.example"))]
        monkeypatch.setattr(tracking_module, "MAX_KNOWN_HOSTS", 1)
        await tracking.register([request("f", "c.example")])
        await tracking.register([request("g", "a.example")])
        assert asked[1:] == [("crm", ("c.example",)), ("crm", ("a.example",))]


async def test_a_job_whose_create_was_sent_is_tracked_without_the_callback(tmp_path):
    async with open_world(tmp_path) as world:
        tracking = tracking_of(world)
        tracking.configure(CallbackLimits(hosts_per_caller=1))
        await tracking.register([request("a", "a.example")])
        (result,) = await tracking.register([request("b", "b.example", intent=intent())])
        assert isinstance(result, Registered)
        assert "go to 1 hosts already" in dict(result.not_attached)["callback"]
        assert len((await world.store.subscriptions.page(limit=50, callbacks=True)).items) == 1
        with pytest.raises(InvalidRequest):
            await tracking.claim_host("https://b.example/x", "crm")
        await tracking.claim_host("https://a.example:8443/x", "crm")


async def test_refused_callbacks_of_a_job_leave_nothing_behind(tmp_path):
    async with open_world(tmp_path) as world:
        tracking = tracking_of(world)
        tracking.configure(CallbackLimits(per_job=2, hosts_per_caller=100))

        async def results(*names: str) -> list[str]:
            found = await tracking.register([request("job", name) for name in names])
            return [one.code if isinstance(one, InvalidRequest) else "tracked" for one in found]

        too_many = "too_many_callbacks"
        assert await results("a.example", "b.example", "c.example", "d.example") == ["tracked"] * 2 + [too_many] * 2
        assert await results("e.example", "a.example", "f.example") == [too_many, "tracked", too_many]
        (kept,) = await tracking.register([request("job", "g.example", intent=intent())])
        assert isinstance(kept, Registered)
        assert "2 callbacks already" in dict(kept.not_attached)["callback"]
        page = await world.store.subscriptions.page(limit=50, callbacks=True)
        assert {one.sink for one in page.items} == {"https://a.example/hook", "https://b.example/hook"}
        await tracking.register([request("other", "c.example")])
        assert await results("c.example") == [too_many]  # it exists, and the job has no room for it
