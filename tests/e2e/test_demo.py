"""`relay demo` as a process: nothing lost, nothing left behind, and consistent figures."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.scale import soak_only

COMMAND = [sys.executable, "-W", "error", "-m", "relay", "demo", "--speed", "600"]
LINK = r"Dashboard: (http://127\.0\.0\.1:\d+/ui)"
FIGURES = [
    *("jobs", "events_delivered", "owed", "lost", "unobserved", "duplicates", "out_of_order", "signature_failures"),
    *("upstream_requests", "requests_per_job", "naive_requests_per_job", "detection_delay_seconds", "elapsed_seconds"),
]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path / "home"), "XDG_STATE_HOME": "/nonexistent"}


def test_json_figures_add_up(environ: dict[str, str], tmp_path: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, "--jobs", "9", "--seed", "3", "--json"], env=environ, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    (line,) = ran.stdout.splitlines()
    figures = json.loads(line)
    assert list(figures) == FIGURES
    assert figures["jobs"] == 9
    assert [figures[name] for name in ("lost", "duplicates", "out_of_order", "signature_failures")] == [0, 0, 0, 0]
    assert figures["events_delivered"] >= figures["owed"] >= 9
    assert figures["requests_per_job"] == round(figures["upstream_requests"] / 9, 2)
    assert figures["requests_per_job"] < figures["naive_requests_per_job"]
    assert "Traceback" not in ran.stderr
    assert "warning" not in ran.stderr.lower()
    assert list(tmp_path.iterdir()) == []


def test_text_output_ends_with_a_headline(environ: dict[str, str]) -> None:
    ran = subprocess.run([*COMMAND, "--jobs", "3"], env=environ, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    link, first, *_, last = ran.stdout.splitlines()
    assert re.fullmatch(LINK + ", until the demo ends .*", link)
    assert first.startswith("0/3 jobs finished")
    assert last.startswith("3 jobs, ")
    assert "Polling every 5 s needs" in last


def test_compare_naive_adds_its_figures(environ: dict[str, str], tmp_path: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, "--jobs", "6", "--compare", "naive", "--json"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    (line,) = ran.stdout.splitlines()
    figures = json.loads(line)
    assert list(figures) == [*FIGURES, "naive"]
    naive = figures["naive"]
    assert list(naive) == ["detection_delay_seconds", "upstream_requests"]
    assert list(naive["detection_delay_seconds"]) == ["mean", "p50", "p95"]
    assert naive["detection_delay_seconds"]["p95"] >= naive["detection_delay_seconds"]["p50"] > 0
    assert naive["upstream_requests"] > figures["upstream_requests"]
    assert "The same jobs again, with a plain poller that polls every 5 s" in ran.stderr
    assert "6/6 ends seen" in ran.stderr
    assert "│ upstream requests" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("The relay saw ends after ")
    assert list(tmp_path.iterdir()) == []


IN_THE_BACKGROUND = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
"""As started by a shell without a terminal: Ctrl-C is ignored."""


@pytest.mark.parametrize(
    ("before", "sign"),
    [
        ([], signal.SIGINT),
        pytest.param([], signal.SIGTERM, marks=soak_only),
        (IN_THE_BACKGROUND, signal.SIGTERM),
    ],
)
def test_keep_serves_until_interrupted(
    environ: dict[str, str], tmp_path: Path, before: list[str], sign: signal.Signals
) -> None:
    with subprocess.Popen(
        [*before, *COMMAND, "--jobs", "3", "--keep"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        lines: list[str] = []
        while not lines or "Serving until Ctrl-C" not in lines[-1]:
            line = running.stdout.readline()
            assert line, lines
            lines.append(line)
        found = re.match(LINK, lines[0])
        assert found is not None
        assert any(line.endswith(f"dashboard  {found[1]}\n") for line in lines)
        with urllib.request.urlopen(found[1], timeout=120) as page:
            assert page.headers.get_content_type() == "text/html"
            assert len(page.headers.get_all("date")) == 1
        running.send_signal(sign)
        try:
            _, errors = running.communicate(timeout=120)
        finally:
            running.kill()  # or the end of this block would wait for it
    assert running.returncode == 0
    assert errors == ""
    assert list(tmp_path.iterdir()) == []
