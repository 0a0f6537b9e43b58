"""`make bench-against`, tiny: this version beside itself, and a version that cannot be found."""

import json
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from against import Found, as_json, run, table
from against_lines import LINES, Figures, Line
from against_versions import head
from against_world import Lacks, World
from rich.console import Console

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "against.py"
NAMES = ("job to delivery", "start, empty")


def lacking(_world: World, _count: int) -> Figures:
    raise Lacks("POST /v1/wishes")


def test_a_version_is_compared_with_itself_on_two_lines() -> None:
    found = Found(versions=[replace(head(), name="REF"), head()])
    said: list[str] = []
    lines = [line for line in LINES if line.name in NAMES]
    lacks = Line(name="wishes", count=1, turn=lacking, starts=True)
    run(found, [*lines, lacks], ["SQLite"], rounds=1, size=0.005, say=said.append)

    comparisons = found.comparisons()
    assert {one.line for one in comparisons} == set(NAMES)
    assert {one.measure.name for one in comparisons if one.line == "job to delivery"} == {
        *("processor", "rate", "p50", "p99", "memory")
    }
    assert all(one.head.middle > 0 for one in comparisons if one.measure.name not in ("processor", "start processor"))
    assert [one.worse for one in comparisons] == [None] * len(comparisons)
    [skipped] = found.skipped
    assert skipped == f"SQLite, wishes: REF {head().commit} has no POST /v1/wishes"
    assert f"SKIPPED {skipped}" in said

    shown = StringIO()
    Console(width=140, file=shown).print(table(found))
    assert "job to delivery" in shown.getvalue()
    assert len(json.loads(as_json(found))["figures"]) == len(comparisons)


@pytest.mark.parametrize("ref", ["no-such-commit", "HEAD:README.md", "--output=x"])
def test_an_unknown_commit_is_one_line_and_exit_code_2(ref: str) -> None:
    done = subprocess.run([sys.executable, str(PROGRAM), f"--ref={ref}"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"'{ref}' is no commit of this repository")
