"""Slack with a bot token through a whole node: a group is one message from its first failure to its summary."""

import contextlib
from pathlib import Path

from relay.cli.demo.environment import listen, served, url_of
from tests.support.e2e_world import AT_ONCE, open_e2e_world
from tests.vendors.slack_web import TOKEN, UPDATE, Fault, SlackWeb


async def test_group_is_one_message_that_is_edited(tmp_path: Path) -> None:
    slack = SlackWeb()
    async with open_e2e_world(tmp_path) as world, contextlib.AsyncExitStack() as stack:
        answered = slack.answer

        def answer(*given: object) -> object:
            done = answered(*given)  # type: ignore[arg-type]
            world.node.signals.event_recorded()
            return done

        slack.answer = answer  # type: ignore[method-assign, assignment]
        at_slack = stack.enter_context(contextlib.closing(listen()))
        await stack.enter_async_context(served(slack.app(), at_slack))
        body = {
            "sink": f"{url_of(at_slack)}/api/chat.postMessage",
            "types": ["failed", "relay.group.finished"],
            "sinkcredential": {"credentialtype": "ACCESSTOKEN", "accesstoken": TOKEN},
            "config": {
                "kind": "slack",
                "channel": "#campaigns",
                "incidents": "off",
                "rate_per_second": 1000,
                "retry_schedule": [0.05] * 5,
            },
        }
        made = (await world.api.post("/v1/subscriptions", json=body)).json()

        async def job(code: str) -> None:
            script = {"account": "test", "final": "failed", "error_code": code, **AT_ONCE}
            (item,) = (await world.sandbox.post("/_sandbox/jobs", json=script)).json()["items"]
            answer = await world.api.post("/v1/jobs", json={"id": item["id"], "group": "spring"})
            assert answer.status_code == 201, answer.text

        slack.fail(UPDATE, Fault(error="internal_error"))
        await job("connect_account_reconnect_required")
        await world.until(lambda: [len(post.replies) for post in slack.channel()] == [1])
        await job("insufficient_credits")
        await world.until(lambda: len(slack.channel()[0].replies) == 2)
        (head,) = slack.channel()
        assert head.text == "Campaign spring so far: 2 failed"
        closed = await world.api.post("/v1/groups/spring/close", json={})
        assert closed.status_code == 200, closed.text
        await world.until(lambda: len(head.replies) == 3)
        assert head.text.startswith("Campaign spring has finished: 0 of 2 jobs were accepted. 2 failed")
        assert slack.channel() == [head]

        await world.node.dispatcher.drain()
        shown = [
            (await world.api.get(f"/v1/deliveries/{one['id']}")).json()
            for one in (await world.api.get(f"/v1/deliveries?subscription={made['id']}")).json()["items"]
        ]
        attempts = [attempt for delivery in reversed(shown) for attempt in delivery["attempts"]]
        assert [attempt["decision"].partition(" in ")[0].partition(";")[0] for attempt in attempts] == [
            "ok: delivered",
            "internal_error (attempt 1 of 6): tried again",
            "ok: delivered",
            "ok: delivered",
        ]
        assert attempts[-1]["decision"].endswith("request 2, after chat.update: HTTP 200")
        assert TOKEN not in str(shown)
        sample = (await world.api.post(f"/v1/subscriptions/{made['id']}/test", json={})).json()
        assert sample["delivered"], sample
        assert len(slack.channel()) == 2
