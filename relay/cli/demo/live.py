"""What a demo shows while it runs: a live table on a terminal, plain lines elsewhere, and the figures at the end."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator

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
from relay.cli.demo.scenario import Scenario, open_scenario, patience_seconds, run_scenario

LINE_SECONDS = 2.0
ALWAYS_SHOWN = ("queued", "scheduled", "running", "retrying", "succeeded", "failed", "cancelled")
STATES = ("dispatched", *ALWAYS_SHOWN, "overdue", "not_found", "status_unknown")


def run(plan: Plan, *, compare: bool, as_json: bool, keep: bool) -> Report:
    """One demo from its beginning to its end. Raises RelayError, and KeyboardInterrupt on Ctrl-C or SIGTERM."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_run(plan, compare=compare, as_json=as_json, keep=keep))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _run(plan: Plan, *, compare: bool, as_json: bool, keep: bool) -> Report:
    """One demo. With `as_json` only the figures go to stdout: what is for people goes to stderr."""
    console = Console(stderr=as_json, highlight=False)
    with _terminated_like_interrupted():
        async with open_scenario(plan) as scenario:
            with _shown(
                console, lambda: picture(scenario), lambda: progress_line(scenario), scenario.is_over
            ) as progress:
                report = await run_scenario(scenario, progress)
            style = "bold green" if report.ok else "bold red"
            console.print(Text(report.headline(), style=style), soft_wrap=True)
            figures = report.shown()
            if compare:
                naive = await _compare(scenario, report, console)
                figures["naive"] = naive.shown()
            if as_json:
                typer.echo(orjson.dumps(figures).decode())
            if keep:
                await _serve_on(scenario, console)
            return report


async def _compare(scenario: Scenario, report: Report, console: Console) -> Naive:
    """The same world once more with the naive poller, and both side by side."""
    about_seconds = length_seconds(scenario.truths())
    console.print(
        f"The same world once more, with a plain poller that looks every {NAIVE_INTERVAL_SECONDS:g} s: about "
        f"{about_seconds:.0f} s, at most {about_seconds + patience_seconds(scenario.plan):.0f} s.",
        soft_wrap=True,
    )
    async with open_rerun(scenario.plan) as rerun:
        with _shown(
            console, lambda: rerun_picture(rerun), lambda: rerun_line(rerun), lambda: rerun.is_done
        ) as progress:
            naive = await run_again(rerun, scenario, progress)
    console.print(side_by_side(report, naive))
    console.print(Text(compared(report, naive), style="bold"), soft_wrap=True)
    return naive


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, so that its folder goes; also where a shell had Ctrl-C ignored."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _serve_on(scenario: Scenario, console: Console) -> None:
    """Prints the addresses and serves until Ctrl-C."""
    for name, url in (
        ("relay", f"{scenario.relay_url}/v1/jobs"),
        ("sandbox", f"{scenario.sandbox_url}/_sandbox/jobs"),
        ("receiver", scenario.receiver_url),
    ):
        console.print(f"{name:>8}  {url}", soft_wrap=True)
    console.print("Serving until Ctrl-C.")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.uncancel() > 0:
            raise


@contextlib.contextmanager
def _shown(
    console: Console, draw: Callable[[], RenderableType], describe: Callable[[], str], is_over: Callable[[], bool]
) -> Iterator[Callable[[], None]]:
    """What `draw` gives, live, on a terminal; elsewhere the line of `describe` every few seconds, and when it is over.

    Gives what to call when something changed.
    """
    if console.is_terminal:
        with Live(draw(), console=console, auto_refresh=False) as live:
            yield lambda: live.update(draw(), refresh=True)
        return
    said: list[tuple[float, str]] = []

    def say() -> None:
        now = time.monotonic()
        line = describe()
        if not said or (line != said[-1][1] and (now - said[-1][0] >= LINE_SECONDS or is_over())):
            said[:] = [(now, line)]
            console.print(line, soft_wrap=True)

    yield say


def progress_line(scenario: Scenario) -> str:
    """How far it is, in one plain line."""
    return (
        f"{scenario.finished}/{scenario.plan.jobs} jobs finished, "
        f"{scenario.received.events_delivered} events delivered, {scenario.upstream_requests} upstream requests"
    )


def picture(scenario: Scenario) -> RenderableType:
    """How far it is, as a table: jobs by their state, events, requests, and a bar."""
    states = scenario.states()
    title = Text(f"{scenario.plan.jobs} jobs over three channels at speed {scenario.plan.speed:g}", style="bold")
    table = Table()
    table.add_column("state")
    table.add_column("jobs", justify="right", min_width=6)
    for state in STATES:
        if state in ALWAYS_SHOWN or state in states:
            table.add_row(state, str(states.get(state, 0)))
    table.add_section()
    table.add_row("events delivered", str(scenario.received.events_delivered))
    table.add_row("upstream requests", str(scenario.upstream_requests))
    return Group(title, table, ProgressBar(total=scenario.plan.jobs, completed=scenario.finished, width=48))


def rerun_line(rerun: Rerun) -> str:
    """How far the naive poller is, in one plain line."""
    return f"{rerun.ends_seen}/{rerun.plan.jobs} ends seen, {rerun.upstream_requests} upstream requests"


def rerun_picture(rerun: Rerun) -> RenderableType:
    """How far the naive poller is: its line and a bar."""
    return Group(Text(rerun_line(rerun)), ProgressBar(total=rerun.plan.jobs, completed=rerun.ends_seen, width=48))


def side_by_side(report: Report, naive: Naive) -> Table:
    """The relay's figures and the naive poller's, as a table."""
    table = Table()
    table.add_column("")
    for name in ("relay", f"every {NAIVE_INTERVAL_SECONDS:g} s"):
        table.add_column(name, justify="right", min_width=9)
    relays, naives = report.detection_delay_seconds, naive.detection_delay_seconds
    for name, ours, theirs in (
        ("end seen after, mean", relays.mean, naives.mean),
        ("end seen after, p50", relays.p50, naives.p50),
        ("end seen after, p95", relays.p95, naives.p95),
    ):
        table.add_row(name, *("-" if seconds is None else f"{seconds:.1f} s" for seconds in (ours, theirs)))
    table.add_row("upstream requests", str(report.upstream_requests), str(naive.upstream_requests))
    return table
