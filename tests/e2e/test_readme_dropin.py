"""The README's second way in, typed as it is written: four terminals, and only the ports are others."""

import json
from pathlib import Path

from tests.process_world import Process, Start
from tests.typed import blocks, prompts, section, shell_path, with_places

BASH = ("bash", "-c")


def test_change_one_line(start: Start, tmp_path: Path) -> None:
    change, story = blocks(section("README.md", "2. Change one line"), "console")
    sandbox, serve, listen, export, create = prompts(story)
    path = shell_path(tmp_path)

    def typed(line: str, **variables: str) -> Process:
        return start(line, program=BASH, PATH=path, **variables)

    upstream = typed(with_places(sandbox, {"--port 8090": "--port 0"})).until(r"serving http://127\.0\.0\.1:(\d+)")
    begun = with_places(serve, {":8090": f":{upstream}", "--port 8080": "--port 0"})
    relay = typed(begun).until(r"serving http://127\.0\.0\.1:(\d+)")
    listener = typed(listen, RELAY_URL=f"http://127.0.0.1:{relay}")  # the default is the port that was typed
    listener.until("^ready: ")
    here = {"http://127.0.0.1:8080": f"http://127.0.0.1:{relay}"}
    program = typed(f"{with_places(export, here)}\n{create}")
    assert program.close() == 0
    answer = json.loads("".join(program.lines))
    assert answer["ok"] is True
    job_id = answer["item"]["id"]

    listener.until(rf"ai\.revor\.job\.queued {job_id} #1$")
    listener.until(rf"ai\.revor\.job\.running {job_id} ")
    listener.until(rf"ai\.revor\.job\.(succeeded|failed|cancelled|retrying) {job_id} ")
    show = typed("relay jobs show --json " + job_id, RELAY_URL=f"http://127.0.0.1:{relay}")
    assert show.close() == 0
    assert json.loads(show.lines[0])["metadata"] == {"deal": 42}
    assert prompts(change)[0].partition(" #")[0] in export, "the one line is the one that is tried"
