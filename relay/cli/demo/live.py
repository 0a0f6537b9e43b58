"""The output of a demo: a live table on a terminal, plain lines elsewhere, and the figures at the end."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import orjson
import typer
import uvloop
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relay.cli.demo.environment import Plan
from relay.cli.demo.naive import Rerun, length_seconds, open_rerun, run_again
from relay.cli.demo.report import NAIVE_INTERVAL_SECONDS, Naive, Report, compared
from relay.cli.demo.scenario import EVENTS_PATH, Scenario, open_scenario, patience_seconds, run_scenario

Result = TypeVar("Result")

LINE_SECONDS = 2.0
ALWAYS_SHOWN = ("queued", "scheduled", "running", "retrying", "succeeded", "failed", "cancelled")
STATES = ("dispatched", *ALWAYS_SHOWN, "overdue", "not_found", "status_unknown")


def run(plan: Plan, *, compare: bool, as_json: bool, keep: bool) -> Report:
    """Runs a demo. Raises RelayError, or KeyboardInterrupt on Ctrl-C or SIGTERM."""
    return run_to_end(lambda: _run(plan, compare=compare, as_json=as_json, keep=keep))


def run_to_end(demo: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Runs a demo on a loop of its own. Raises KeyboardInterrupt on Ctrl-C and SIGTERM, after its folder is gone."""

    async def terminated_like_interrupted() -> Result:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await demo()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(terminated_like_interrupted())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _run(plan: Plan, *, compare: bool, as_json: bool, keep: bool) -> Report:
    """Runs a demo. With `as_json` only the figures go to stdout, and everything else to stderr."""
    console = Console(stderr=as_json, highlight=False)
    async with open_scenario(plan) as scenario:
        say_dashboard(scenario, console, keep=keep)
        with shown(console, lambda: picture(scenario), lambda: progress_line(scenario), scenario.is_over) as progress:
            report = await run_scenario(scenario, progress)
        say_result(console, report.headline(), ok=report.ok)
        figures = asdict(report)
        if compare:
            naive = await _compare(scenario, report, console)
            figures["naive"] = naive.shown()
        if as_json:
            typer.echo(orjson.dumps(figures).decode())
        if keep:
            await keep_serving(scenario, console)
        return report


async def _compare(scenario: Scenario, report: Report, console: Console) -> Naive:
    """Runs the same jobs again with the plain poller and prints both results side by side."""
    about_seconds = length_seconds(scenario.truths())
    console.print(
        f"The same jobs again, with a plain poller that polls every {NAIVE_INTERVAL_SECONDS:g} s. Takes about "
        f"{about_seconds:.0f} s, at most {about_seconds + patience_seconds(scenario.plan):.0f} s.",
        soft_wrap=True,
    )
    async with open_rerun(scenario.plan) as rerun:
        with shown(console, lambda: rerun_picture(rerun), lambda: rerun_line(rerun), lambda: rerun.is_done) as progress:
            naive = await run_again(rerun, scenario, progress)
    console.print(side_by_side(report, naive))
    console.print(Text(compared(report, naive), style="bold"), soft_wrap=True)
    return naive


async def keep_serving(scenario: Scenario, console: Console) -> None:
    """Prints the addresses and serves until Ctrl-C."""
    for name, url in (
        ("dashboard", scenario.dashboard_url),
        ("relay", f"{scenario.relay_url}/v1/jobs"),
        ("sandbox", f"{scenario.sandbox_url}/_sandbox/jobs"),
        ("receiver", f"{scenario.receiver_url}{EVENTS_PATH}"),
    ):
        console.print(f"{name:>9}  {url}", soft_wrap=True)
    console.print("Serving until Ctrl-C.")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.uncancel() > 0:
            raise


def say_dashboard(scenario: Scenario, console: Console, *, keep: bool) -> None:
    """Prints where to watch the demo."""
    until = "" if keep else ", until the demo ends (--keep leaves it open)"
    console.print(f"Dashboard: {scenario.dashboard_url}{until}", soft_wrap=True)


@contextlib.contextmanager
def shown(
    console: Console, draw: Callable[[], RenderableType], describe: Callable[[], str], is_over: Callable[[], bool]
) -> Iterator[Callable[[], None]]:
    """Yields a function to call when something has changed.

    On a terminal it shows `draw()` live. Elsewhere it prints the line of `describe()` every few seconds and at the end.
    """
    if console.is_terminal:
        with Live(draw(), console=console, auto_refresh=False) as live:
            yield lambda: live.update(draw(), refresh=True)
        return
    last: tuple[float, str] | None = None

    def say() -> None:
        nonlocal last
        now, line = time.monotonic(), describe()
        if last is None or (line != last[1] and (now - last[0] >= LINE_SECONDS or is_over())):
            last = now, line
            console.print(line, soft_wrap=True)

    yield say


def say_result(console: Console, text: str, *, ok: bool) -> None:
    """Prints what a run found, in green or red."""
    console.print(Text(text, style="bold green" if ok else "bold red"), soft_wrap=True)


def progress_line(scenario: Scenario) -> str:
    """The progress of a demo in one line."""
    return (
        f"{scenario.finished}/{scenario.plan.jobs} jobs finished, "
        f"{scenario.received.events_delivered} events delivered, {scenario.upstream_requests} upstream requests"
    )


def picture(scenario: Scenario, *tables: RenderableType) -> RenderableType:
    """The progress of a demo: a table, or these tables, and a bar."""
    plan = scenario.plan
    title = Text(f"{plan.jobs} jobs over three channels at speed {plan.speed:g}", style="bold")
    bar = ProgressBar(total=plan.jobs, completed=scenario.finished, width=48)
    return Group(title, *(tables or (_states(scenario),)), bar)


def _states(scenario: Scenario) -> Table:
    """Jobs by state, events and requests."""
    states = scenario.states()
    shown = [(state, states.get(state, 0)) for state in STATES if state in ALWAYS_SHOWN or state in states]
    figures = (
        ("events delivered", scenario.received.events_delivered),
        ("upstream requests", scenario.upstream_requests),
    )
    return table(("state", "jobs"), shown, figures)


def table(names: Sequence[str], *sections: Iterable[Sequence[object]]) -> Table:
    """A table of sections of rows. Its first column has words, the others have numbers."""
    first, *others = names
    found = Table()
    found.add_column(first, no_wrap=True)
    for name in others:
        found.add_column(name, justify="right", no_wrap=True, min_width=6)
    for rows in sections:
        for row in rows:
            found.add_row(*map(str, row))
        found.add_section()
    return found


def rerun_line(rerun: Rerun) -> str:
    """The progress of the plain poller in one line."""
    return f"{rerun.ends_seen}/{rerun.plan.jobs} ends seen, {rerun.upstream_requests} upstream requests"


def rerun_picture(rerun: Rerun) -> RenderableType:
    """The progress of the plain poller as a line and a bar."""
    return Group(Text(rerun_line(rerun)), ProgressBar(total=rerun.plan.jobs, completed=rerun.ends_seen, width=48))


def side_by_side(report: Report, naive: Naive) -> Table:
    """The figures of the relay and of the plain poller as a table."""
    relays, naives = report.detection_delay_seconds, naive.detection_delay_seconds
    rows = [
        (f"end seen after, {name}", *("-" if seconds is None else f"{seconds:.1f} s" for seconds in delays))
        for name, *delays in (
            ("mean", relays.mean, naives.mean),
            ("p50", relays.p50, naives.p50),
            ("p95", relays.p95, naives.p95),
        )
    ]
    requests = ("upstream requests", report.upstream_requests, naive.upstream_requests)
    return table(("", "relay", f"every {NAIVE_INTERVAL_SECONDS:g} s"), [*rows, requests])
