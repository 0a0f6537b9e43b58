"""The W3C's own harness for Trace Context judges the relay's deliveries. It is not ours to copy: see the environment
variable below. Our own table of the same rules is `tests/unit/core/test_trace_context.py`."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from relay.cli.demo.environment import listen, served, url_of
from tests.support.e2e_world import open_e2e_world
from tests.support.trace_collector import open_collector
from tests.vendors.trace_context_adapter import adapter

pytestmark = pytest.mark.verify

FOLDER = "TRACE_CONTEXT_HARNESS"
"""The folder `test` of github.com/w3c/trace-context."""
TESTS = 41


async def judged(tmp_path: Path, *, traces: bool) -> tuple[int, str]:
    """The exit code of the harness, which is its number of failures, and its output."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        where = "the folder test of github.com/w3c/trace-context"
        pytest.skip(f"THE W3C'S HARNESS IS NOT HERE, NOT CHECKED: set {FOLDER} to {where}")
    async with asyncio.timeout(600), contextlib.AsyncExitStack() as stack:
        world = await stack.enter_async_context(open_e2e_world(tmp_path, traces=traces))
        own, harness = (stack.enter_context(contextlib.closing(listen())) for _ in range(2))
        await stack.enter_async_context(served(adapter(world.api), own))
        port = str(harness.getsockname()[1])
        harness.close()
        levels = {"SPEC_LEVEL": "2", "STRICT_LEVEL": "2", "HARNESS_PORT": port, "HARNESS_TIMEOUT": "60"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "test.py", f"{url_of(own)}/test"),
            cwd=folder,
            env={**_environment(), **levels},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()


def _environment() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


async def test_relay_with_spans_passes_every_test_of_the_harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        failures, output = await judged(tmp_path, traces=True)
    assert failures == 0, output
    assert f"Ran {TESTS} tests" in output


async def test_without_spans_nothing_is_generated_and_all_else_holds(tmp_path: Path) -> None:
    failures, output = await judged(tmp_path, traces=False)
    reasons = {
        "expect one traceparent header, got zero []": 23,  # of requests without a valid one
        "AssertionError: '1234567890123456' == '1234567890123456'": 2,  # a parent id of our own
        "AssertionError: 1 != 3": 1,  # and one for each request
    }
    assert {reason: output.count(reason) for reason in reasons} == reasons, output
    assert failures == sum(reasons.values()), output
