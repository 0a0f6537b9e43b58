"""The output of `relay demo --wired`: a table while it runs, then what each target got."""

from collections.abc import Callable

import orjson
import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relay.cli.demo.environment import Plan
from relay.cli.demo.live import keep_serving, run_to_end, say_dashboard, shown
from relay.cli.demo.slack_channel import Message
from relay.cli.demo.wired import Wired, open_wired, run_wired
from relay.cli.demo.wired_report import Result, WiredReport

MAX_FIELDS = 8
"""Maximum number of fields shown of a message."""


def run(plan: Plan, *, as_json: bool, keep: bool) -> WiredReport:
    """Runs the demo. Raises RelayError, or KeyboardInterrupt on Ctrl-C or SIGTERM."""
    return run_to_end(lambda: _run(plan, as_json=as_json, keep=keep))


async def _run(plan: Plan, *, as_json: bool, keep: bool) -> WiredReport:
    console = Console(stderr=as_json, highlight=False)
    async with open_wired(plan) as wired:
        scenario = wired.campaign.scenario
        say_dashboard(scenario, console, keep=keep)
        with shown(console, lambda: picture(wired), lambda: progress_line(wired), scenario.is_over) as progress:
            report = await run_wired(wired, progress)
        console.print(outcome(report))
        style = "bold green" if report.ok else "bold red"
        console.print(Text("\n".join(report.lines()), style=style), soft_wrap=True)
        if as_json:
            typer.echo(orjson.dumps(report.shown()).decode())
        if keep:
            await keep_serving(scenario, console)
        return report


def progress_line(wired: Wired) -> str:
    """The progress in one line."""
    arrived = sum(len(one.got) for one in wired.live)
    requests = sum(one.requests for one in wired.live)
    return (
        f"{wired.finished}/{wired.campaign.scenario.plan.jobs} jobs finished, {arrived} events delivered to "
        f"{len(wired.live)} targets in {requests} requests"
    )


def picture(wired: Wired) -> RenderableType:
    """The progress as a table and a bar."""
    plan = wired.campaign.scenario.plan
    title = Text(f"{plan.jobs} jobs over three channels at speed {plan.speed:g}", style="bold")
    table = _table(wired.results(), over=False)
    return Group(title, table, ProgressBar(total=plan.jobs, completed=wired.finished, width=48))


def outcome(report: WiredReport) -> RenderableType:
    """What each target got: a few of its messages, then all in a table."""
    parts: list[RenderableType] = []
    for result in report.results:
        parts.append(Text.assemble((result.name, "bold magenta"), f" ({result.gets})"))
        parts += [Padding(drawn(message), (0, 0, 1, 2), expand=False) for message in result.messages]
    parts.append(_table(report.results, over=True))
    return Group(*parts)


def drawn(message: Message) -> Text:
    """A message as text."""
    title, *more = message.title.split("\n")
    text = Text(title, style="bold")
    for line in more:
        text.append(f"\n{line}", style="not bold")
    for label, value in message.fields[:MAX_FIELDS]:
        text.append(f"\n{label}{': ' if label else ''}", style="dim not bold").append(value, style="not bold")
    if len(message.fields) > MAX_FIELDS:
        text.append(f"\n… and {len(message.fields) - MAX_FIELDS} more", style="dim not bold")
    if message.footer:
        text.append(f"\n{message.footer}", style="dim not bold")
    return text


def _table(results: tuple[Result, ...], *, over: bool) -> Table:
    """`over`: also what each target should have got. While the demo runs it says in words what each gets."""
    columns: list[tuple[str, Callable[[Result], int]]] = [
        ("requests", lambda result: result.requests),
        ("events", lambda result: len(result.got)),
        ("refused", lambda result: result.refused),
    ]
    table = Table()
    table.add_column("target", no_wrap=True)
    if over:
        columns.insert(1, ("expected", lambda result: len(result.due)))
    else:
        table.add_column("gets", no_wrap=True)
    for name, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        words = (result.name,) if over else (result.name, result.gets)
        numbers = (str(number(result)) for _, number in columns)
        table.add_row(*words, *numbers, style="red" if over and result.problems else None)
    return table
