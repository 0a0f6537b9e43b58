"""What all tests share."""

import gc
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.support.order import folders_from, sort_items
from tests.support.process_world import Start, processes
from tests.support.scale import scaled

# A shell starts what runs in the background with Ctrl-C ignored, and the programs that we start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What is imported and collected lasts: the garbage collector need not go through it, now or during the tests.
gc.disable()


TESTS = Path(__file__).parent
OF_VERIFY = ("browser", "bus", "e2e", "fuzz", "packaging")
"""Folders that `make verify` runs. Of the others it runs what is marked `verify`, and `make test` the rest."""


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is not None and config.args == config.getini("testpaths"):
        number, workers = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
        config.args = [str(folder) for folder in folders_from(TESTS.iterdir(), number, workers)]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What `make test` deselects need not be imported."""
    return True if config.option.markexpr == "not verify" and _is_of_verify(collection_path) else None


@pytest.hookimpl(tryfirst=True)  # before the markers are asked for
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _is_of_verify(item.path):
            item.add_marker("verify")
    if hasattr(config, "workerinput"):
        sort_items(items, TESTS)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def _is_of_verify(path: Path) -> bool:
    return path.is_relative_to(TESTS) and path.relative_to(TESTS).parts[:1] in {(name,) for name in OF_VERIFY}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `relay` with these arguments and variables, in the test's folder."""
    with processes(tmp_path) as begin:
        yield begin


@pytest.fixture(autouse=True)
def _log_settings() -> Iterator[None]:
    """A command that runs inside a test sets the level and form of the log: not for the tests after it."""
    before, level = structlog.get_config(), logging.getLogger().level
    yield
    structlog.configure(**before)
    logging.getLogger().setLevel(level)


# The default draws each exception with all variables of its frames, which takes seconds for large ones.
structlog.configure(
    processors=[
        structlog.stdlib.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

# The time that one example takes says more about the machine's load than about the code: tests run in parallel.
settings.register_profile("relay", deadline=None, print_blob=True, max_examples=scaled(40, 200))
settings.load_profile("relay")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many requests the fuzz tests made: the bound is in `tests/support/fuzz_kit.py`."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, ())]
    made = [value for report in reports for name, value in report.user_properties if name == "fuzz_requests"]
    if made:
        terminalreporter.write_line(f"fuzz: {sum(made):,} requests over {len(made)} operations and ways to call them")
