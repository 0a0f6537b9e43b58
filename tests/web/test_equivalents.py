"""What stands below a page as a command is one that `relay` takes."""

import shlex

import typer.main

from relay.cli import app
from tests.support.web_world import Browser

PAGES = (
    "/ui",
    "/ui/jobs",
    "/ui/jobs?open=true",
    "/ui/jobs?open=false&status=failed&group=a%20b&channel=email&connect_account=a&source=revor&account=default",
    "/ui/jobs?age=1d&until=2026-05-20T10:00:00Z",
    "/ui/groups",
    "/ui/groups?state=open",
    "/ui/deliveries",
    "/ui/deliveries?state=dead&by=reason",
    "/ui/deliveries?view=list&state=dead&reason=http_500&day=2026-05-20",
    "/ui/deliveries?view=list&subscription=sub_1&event=evt_1",
    "/ui/events",
    "/ui/events?type=job.failed&subject=x&since=2h&until=1h",
    "/ui/events?filter=data.status+%3D%3D+%22failed%22",
    "/ui/incidents",
    "/ui/incidents?state=open",
    "/ui/intents",
    "/ui/accounts",
    "/ui/sources",
    "/ui/subscriptions",
    "/ui/subscriptions?callbacks=true",
    "/ui/subscriptions/new",
    "/ui/tokens",
    "/ui/tokens/new",
    "/ui/audit",
    "/ui/audit?actor=token+file&action=login&since=2026-05-20T10:00:00Z&until=2026-05-21T10:00:00Z",
    "/ui/settings",
    "/ui/settings?changed=true",
)


async def test_the_command_of_each_page_and_filter_is_one_that_exists(browser: Browser) -> None:
    for path in PAGES:
        soup = (await browser.get(path)).soup
        shown = soup.texts("//pre")  # also what an empty page says to do first
        assert soup.texts("//details[contains(@class, 'equivalent')]//pre"), path
        for command in (one for text in shown for one in text.split("; ") if one.startswith("relay ")):
            parse(shlex.split(command))


def parse(words: list[str]) -> None:
    """Reads the command without running it. An unknown command, option or argument is an error."""
    command, rest = typer.main.get_command(app), words[1:]
    while (group := getattr(command, "commands", None)) and rest and rest[0] in group:
        command, rest = group[rest[0]], rest[1:]
    assert not group or not rest or rest[0].startswith("-"), words
    command.make_context(" ".join(words), rest)
