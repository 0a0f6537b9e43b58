"""What the stories share: a running story, what it found, and how it is played on a terminal.

A story is the plain demo (`relay/cli/demo`) with other sinks. `python -m tests.stories NAME` plays one.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from relay.cli.demo.live import keep_serving, picture, progress_line, say_dashboard, say_result, shown
from relay.cli.demo.report import Report
from relay.cli.demo.scenario import Scenario
from tests.vendors.endpoint import Message

MAX_FIELDS = 8
"""Maximum number of fields shown of a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a story found. `report`: the events of jobs that arrived, compared with the truth of the sandbox."""

    report: Report

    def checks(self) -> Iterable[tuple[object, str]]:
        """What must not be, each with a sentence without the full stop. True or a number: it is."""
        raise NotImplementedError

    def sentences(self) -> list[str]:
        """The result in a few sentences."""
        raise NotImplementedError

    def details(self) -> RenderableType:
        """What arrived."""
        raise NotImplementedError

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not hold."""
        of_jobs = (f"events of jobs: {problem}" for problem in self.report.problems)
        return (*of_jobs, *(text for wrong, text in self.checks() if wrong))

    def lines(self) -> list[str]:
        """The sentences, then the problems."""
        return self.sentences() + ([f"Wrong: {problem}." for problem in self.problems] or ["Everything holds."])


@dataclass(kw_only=True)
class Story:
    """A running story."""

    scenario: Scenario

    def picture(self) -> RenderableType:
        """The progress as a table and a bar."""
        return picture(self.scenario)

    def progress_line(self) -> str:
        """The progress in one line."""
        return progress_line(self.scenario)

    async def run(self, progress: Callable[[], None] = lambda: None) -> Findings:
        """Runs it to its end."""
        raise NotImplementedError


async def play(opened: AbstractAsyncContextManager[Story], *, keep: bool) -> bool:
    """Plays a story. True: everything holds."""
    console = Console(highlight=False)
    async with opened as story:
        scenario = story.scenario
        say_dashboard(scenario, console, keep=keep)
        with shown(console, story.picture, story.progress_line, scenario.is_over) as progress:
            found = await story.run(progress)
        console.print(found.details())
        say_result(console, "\n".join(found.lines()), ok=not found.problems)
        if keep:
            await keep_serving(scenario, console)
        return not found.problems


def drawn(title: str, messages: Iterable[Message]) -> RenderableType:
    """Messages below a title."""
    return Group(
        Text(title, style="bold magenta"),
        *(Padding(_drawn(message), (0, 0, 1, 2), expand=False) for message in messages),
    )


def _drawn(message: Message) -> Text:
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
