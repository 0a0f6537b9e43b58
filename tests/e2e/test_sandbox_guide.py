"""Runs every command in docs/start/sandbox.md as written."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.process_world import Start
from tests.support.typed import ROOT, blocks, prompts, with_places

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="SANDBOX PAGE NOT RUN: curl is not here")


@needs_curl
def test_commands_in_the_sandbox_guide(start: Start, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "start" / "sandbox.md").read_text(encoding="utf-8")
    begin, *calls = [line for block in blocks(page, "console") for line in prompts(block)]
    sandbox = start(*begin.removeprefix("relay ").split(), "--port", "0")
    url = sandbox.until(r"serving (http://\S+) \(seed 7, speed 20\)")
    answers = []
    for call in calls:
        process = start(with_places(call, {"http://127.0.0.1:8090": url}), program=("bash", "-c"))
        assert process.close() == 0
        answers.append(json.loads("".join(process.lines)))
    assert len(answers) == 9
    assert [answer["ok"] for answer in answers] == [True] * 9
    failed, three, broken, repaired, truth, _, share, _, cleared = answers
    assert [answer["account"]["can_send"] for answer in (broken, repaired)] == [False, True]
    assert len(failed["items"]) == 1
    assert len(three["items"]) == 3
    by_id = {job["id"]: job for job in truth["jobs"]}
    assert by_id[failed["items"][0]["id"]]["final_item"]["error"]["code"] == "insufficient_credits"
    assert [by_id[item["id"]]["failed_attempts"] for item in three["items"]] == [2, 2, 2]
    assert share["fault"]["share"] == 0.2
    assert cleared["cleared"] == 2
