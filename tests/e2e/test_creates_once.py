"""A create is sent once, whatever its method: also on a connection that the upstream is closing."""

from pathlib import Path

import pytest

from relay.testing import FakeClock
from tests.e2e.test_dropin_sources import AUTH, STILL
from tests.support.mount_world import MOUNT, json_answer, open_mine
from tests.support.wire import Call

METHODS = ("POST", "PUT", "PATCH", "DELETE")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", [b'{"a": 1}', None])
async def test_create_on_a_closing_connection_is_sent_once(tmp_path: Path, method: str, body: bytes | None) -> None:
    def says(call: Call) -> bytes:
        if call.request.method == "GET":
            return json_answer({"id": "one"})
        call.cut()
        return b""

    changed = {"creates": [{"path": "/v1/jobs/{name}", "methods": list(METHODS)}]}
    async with open_mine(tmp_path, changed, says=says, clock=FakeClock(), **STILL) as (world, stub):
        assert (await world.api.get(f"{MOUNT}/v1/other", headers=AUTH)).status_code == 200  # leaves a connection
        answered = await world.api.request(method, f"{MOUNT}/v1/jobs/a", content=body, headers=AUTH)
        assert answered.status_code == 502
        assert [one.method for one in stub.received] == ["GET", method]
        (listed,) = (await world.api.get("/v1/intents")).json()["items"]
        assert listed["reason"] == "no_answer"
