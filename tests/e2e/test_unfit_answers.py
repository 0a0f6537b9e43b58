"""An answer that does not fit its definition is a failed poll. Everyone who asks why learns which place is empty."""

from pathlib import Path
from typing import Any

import pytest

from relay.testing import FakeClock
from tests.e2e.test_dropin_sources import STILL, polled
from tests.support.mount_world import json_answer, open_mine
from tests.support.wire import Call, answer

DEEP: dict[str, Any] = {"answer": {"ok": {"at": "/ok", "is": True}}, "item": "/data/job"}
HTML = answer(200, [("Content-Type", "text/html")], b"<html>Log in</html>")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (HTML, "200 text/html: not_json"),
        (json_answer({"ok": True, "data": {}}), "no_item: there is no object at /data/job"),
        (json_answer([1]), "no_item: there is no object at /data/job"),
        (
            json_answer({"ok": True, "data": {"job": {"id": "one"}}}),
            "no_status: there is no text at /data/job/state, and no rule matches",
        ),
        (
            json_answer({"ok": True, "data": {"job": {"id": "two", "state": "on"}}}),
            "other_job: another id, or none, is at /data/job/id",
        ),
        (json_answer({"ok": False, "data": {"job": {"id": "one", "state": "on"}}}), "200, where /ok is not true"),
    ],
)
async def test_failed_poll_names_the_place(
    tmp_path: Path, said: bytes, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(call: Call) -> bytes:
        return said

    async with open_mine(tmp_path, DEEP, says=says, clock=FakeClock(), **STILL) as (world, _):
        await world.api.post("/v1/jobs", json={"id": "one", "source": "mine"})
        await polled(world)
        job = (await world.api.get("/v1/jobs/one?source=mine")).json()
        explained = (await world.api.get("/v1/jobs/one/explain?source=mine")).json()
        page = await world.api.get(f"/ui/jobs/{job['uid']}")
        assert (job["open"], job["last_error"]["code"]) == (True, "malformed")
        assert job["last_error"]["message"].endswith(why)
        assert explained["last_error"]["message"] == job["last_error"]["message"]
        assert explained["last_error"]["meaning"] == "What answers is not the API of Mine"
        assert page.status_code == 200
        assert why in page.text
        assert why in capsys.readouterr().out.replace("\x1b[35m", "").replace("\x1b[0m", "")
