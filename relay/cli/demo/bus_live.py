"""The output of `relay demo --bus nats`: a table of subjects while it runs and at the end, then what holds."""

from collections.abc import Sequence

import orjson
import typer
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relay.cli.demo.bus import Bus, open_bus, run_bus
from relay.cli.demo.bus_report import Arrival, BusReport, by_subject
from relay.cli.demo.environment import Plan
from relay.cli.demo.live import keep_serving, run_to_end, say_dashboard, shown


def run(plan: Plan, *, as_json: bool, keep: bool) -> BusReport:
    """Runs the demo. Raises RelayError, or KeyboardInterrupt on Ctrl-C or SIGTERM."""
    return run_to_end(lambda: _run(plan, as_json=as_json, keep=keep))


async def _run(plan: Plan, *, as_json: bool, keep: bool) -> BusReport:
    console = Console(stderr=as_json, highlight=False)
    async with open_bus(plan) as bus:
        scenario = bus.scenario
        say_dashboard(scenario, console, keep=keep)
        with shown(console, lambda: picture(bus), lambda: progress_line(bus), scenario.is_over) as progress:
            report = await run_bus(bus, progress)
        if not console.is_terminal:
            console.print(table(report.arrivals))
        style = "bold green" if report.ok else "bold red"
        console.print(Text("\n".join(report.lines()), style=style), soft_wrap=True)
        if as_json:
            typer.echo(orjson.dumps(report.shown()).decode())
        if keep:
            console.print(f"     nats  {bus.url}  nats sub --server {bus.url} '>'", soft_wrap=True)
            await keep_serving(scenario, console)
        return report


def progress_line(bus: Bus) -> str:
    """The progress in one line."""
    scenario = bus.scenario
    return (
        f"{scenario.finished}/{scenario.plan.jobs} jobs finished, {len(bus.arrivals)} messages read from {bus.server}"
    )


def picture(bus: Bus) -> RenderableType:
    """The progress as a table and a bar."""
    plan = bus.scenario.plan
    title = Text(
        f"{plan.jobs} jobs at speed {plan.speed:g}, and a shop that publishes, at {bus.server}",
        style="bold",
    )
    return Group(title, table(bus.arrivals), ProgressBar(total=plan.jobs, completed=bus.scenario.finished, width=48))


def table(arrivals: Sequence[Arrival]) -> Table:
    """What was read, per subject."""
    found = Table()
    found.add_column("subject", no_wrap=True, min_width=24)
    for name in ("messages", "about"):
        found.add_column(name, justify="right", no_wrap=True, min_width=9)
    last = ""
    for subject, messages, about in by_subject(arrivals):
        first, _, _ = subject.rpartition(".")
        if last not in ("", first):
            found.add_section()
        last = first
        thing = "order" if first == "orders" else "job"
        found.add_row(subject, str(messages), f"{about} {thing}{'s' * (about != 1)}")
    found.add_section()
    found.add_row("all", str(len(arrivals)), "")
    return found
