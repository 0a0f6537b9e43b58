"""The output of the campaign story: each message as it comes, and the figures at the end."""

from collections.abc import Callable

import orjson
import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from relay.cli.demo.campaign import Campaign, open_campaign, run_campaign
from relay.cli.demo.campaign_report import CampaignReport
from relay.cli.demo.environment import Plan
from relay.cli.demo.live import keep_serving, picture, progress_line, run_to_end, say_dashboard, shown
from relay.cli.demo.slack_channel import Message


def run(plan: Plan, *, as_json: bool, keep: bool) -> CampaignReport:
    """Runs the story. Raises RelayError, or KeyboardInterrupt on Ctrl-C or SIGTERM."""
    return run_to_end(lambda: _run(plan, as_json=as_json, keep=keep))


async def _run(plan: Plan, *, as_json: bool, keep: bool) -> CampaignReport:
    console = Console(stderr=as_json, highlight=False)
    async with open_campaign(plan) as campaign:
        scenario = campaign.scenario
        say_dashboard(scenario, console, keep=keep)
        tell = _teller(console, campaign)
        with shown(console, lambda: picture(scenario), lambda: progress_line(scenario), scenario.is_over) as progress:

            def both() -> None:
                tell()
                progress()

            report = await run_campaign(campaign, both)
        style = "bold green" if report.ok else "bold red"
        console.print(Text("\n".join(report.lines()), style=style), soft_wrap=True)
        if as_json:
            typer.echo(orjson.dumps(report.shown()).decode())
        if keep:
            await keep_serving(scenario, console)
        return report


def _teller(console: Console, campaign: Campaign) -> Callable[[], None]:
    """Prints the messages that have come since the last call."""
    printed = 0

    def tell() -> None:
        nonlocal printed
        for message in campaign.channel.messages[printed:]:
            printed += 1
            console.print(drawn(message))

    return tell


def drawn(message: Message) -> Panel:
    """A message as a panel."""
    text = Text(message.title, style="bold")
    for label, value in message.fields:
        text.append(f"\n{label}: ", style="dim").append(value, style="not bold")
    text.append(f"\n{message.footer}", style="dim not bold")
    return Panel(text, title="Slack", title_align="left", border_style="magenta", width=100)
