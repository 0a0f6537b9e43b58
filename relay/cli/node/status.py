"""`relay status`: the overview in a terminal, from the same concerns as the dashboard's. `relay settings`."""

import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from relay import __version__
from relay.cli.client import Api, ApiError, Unreachable, api
from relay.cli.deliveries.report import SKIPPED
from relay.cli.options import Json
from relay.cli.output import clean, note, print_json, print_list, terminal_width
from relay.clock import from_rfc3339, in_words
from relay.core.jsontext import dumps
from relay.core.values import DEFAULT
from relay.errors import RelayError
from relay.web.concerns import Concern, concerns, first_sentence, reads, seen_in
from relay.web.delivery_words import is_failing
from relay.web.figures import Figures, figures_of, hours_query, minutes_query, waiting_now
from relay.web.texts import english

MAX_CARDS = 10
MAX_LISTED = 500
WATCH_SECONDS = 5.0
INDENT = "  "
DEFAULT_HEIGHT = 24
IN_CARDS = ("see GET", "credits left, below")
"""Parts of notes of `/readyz` that repeat a card."""
BY_REASON = {"uncertain": "uncertain", "dead": "dead", "skipped": "cancelled"}
"""The states of the deliveries that `--json` counts, by their names there."""

Document = Mapping[str, Any]


class OtherVersion(RelayError):
    """An answer lacks what this version of the command needs."""

    code = "other_version"


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every 5 seconds, until Ctrl-C, also while no relay answers.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the worst thing, whose turn it is, what to do. Then a card for each other thing that needs
    someone, and figures. Exit code 1: the relay is not ready."""
    client = api()
    if watch:
        _watch(client, json=json)
    ready = client.get("/readyz", accepted=503)
    if json:
        print_json(_document(client, ready))
    else:
        typer.echo("\n".join(_overview(client, ready, terminal_width())))
    raise typer.Exit(0 if ready.get("status") == "ok" else 1)


# --- what is shown


def overview_lines(
    found: Sequence[Concern],
    figures: Figures | None,
    others: Sequence[str],
    *,
    open_jobs: int,
    waiting: int,
    now: float,
    width: int | None,
) -> list[str]:
    """The overview as lines. `others`: what needs only a look. `width`: None: lines are not wrapped."""
    lines = _wrapped(first_sentence(found, open_jobs), width)
    if len(found) > 1:
        lines.append(english()("overview.others", n=len(found) - 1))
    for one in found[:MAX_CARDS]:
        lines += ["", *_card(one, now, width)]
    if len(found) > MAX_CARDS:
        lines += ["", f"and {len(found) - MAX_CARDS} more: relay incidents list --state open"]
    if figures is not None:
        lines += ["", *(f"{name:<17}{value}" for name, value in _figures(figures, open_jobs, waiting))]
    for other in others:
        lines += ["", *_wrapped(other, width)]
    return lines


def _card(one: Concern, now: float, width: int | None) -> Iterator[str]:
    mark = "!" if one.level == "bad" else "-"
    yield from _wrapped(f"{mark} {one.sentence}", width, INDENT)
    since = "" if one.since is None else f", for {in_words(max(0.0, now - from_rfc3339(one.since)))}"
    for text in (one.held, f"whose turn: {one.turn}{since}", one.why):
        if text:
            yield from _wrapped(INDENT + text, width, INDENT)
    if any(act.after for act in one.acts):
        yield f"{INDENT}after the fix:"
    yield from command_lines(one.command, width)


def command_lines(command: str, width: int | None) -> list[str]:
    """A command to copy. One that is too long for the terminal goes on after a backslash."""
    room = len(command) + 10 if width is None else width - 8
    parts = textwrap.wrap(command, room, break_long_words=False, break_on_hyphens=False)
    first = [f"{INDENT}$ {parts[0]}", *(f"{INDENT}    {part}" for part in parts[1:])]
    return [f"{line} \\" for line in first[:-1]] + first[-1:]


def _figures(figures: Figures, open_jobs: int, waiting: int) -> Iterator[tuple[str, str]]:
    yield "open jobs", f"{open_jobs:,} now"
    when = "this hour" if figures.by_hour else "the last hour"
    failed = f", {figures.failed_lately:,} of them failed" if figures.failed_lately else ""
    yield "ended jobs", f"{figures.ended_lately:,} in {when}{failed}, {sum(n for _, n in figures.ended):,.0f} in 24 h"
    if figures.p50 is not None and figures.p95 is not None:
        yield "detection delay", f"{in_words(figures.p50)} median, 95 of 100 within {in_words(figures.p95)}"
    yield "waiting events", f"{waiting:,} now"


def _wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    text = clean(text)
    if width is None:
        return [text]
    own = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(text.strip(), width, initial_indent=own, subsequent_indent=own or indent) or [text]


# --- what is read


def _overview(client: Api, ready: Document, width: int | None) -> list[str]:
    """The lines of the overview. Raises OtherVersion."""
    try:
        return _read(client, ready, width)
    except KeyError as missing:
        detail = f"the relay's answer has no {missing}: it is of another version than this command, {__version__}"
        raise OtherVersion(f"{detail}. Use the command of the relay's version.") from None


def _read(client: Api, ready: Document, width: int | None) -> list[str]:
    now = time.time()
    seen = seen_in(ready, {name: _allowed(client, one.path, one.query) for name, one in reads(now).items()})
    hours = _allowed(client, "/v1/figures", hours_query(now))
    figures = None if hours is None else figures_of(hours, _allowed(client, "/v1/figures", minutes_query(now)), now)
    found = concerns(seen, now)
    others = [f"note: {one}" for one in ready.get("notes") or () if not any(part in one for part in IN_CARDS)]
    others += [_lag_line(one) for one in seen.subscriptions if one.get("lag", {}).get("count")]
    skipped = _allowed(client, "/v1/deliveries", _by_reason("skipped"))
    others += [] if skipped is None else _skipped_lines(_counted("skipped", skipped))
    open_jobs, waiting = sum(one["open_jobs"] for one in seen.sources), waiting_now(seen.pending, figures)
    return overview_lines(found, figures, others, open_jobs=open_jobs, waiting=waiting, now=now, width=width)


def _allowed(client: Api, path: str, query: Document) -> Any:
    """The answer; None if the token may not read it."""
    try:
        return client.get(path, query)
    except ApiError as error:
        if error.status in (403, 404) or (error.exit_code == 2 and path == "/v1/figures"):  # of one account: no minutes
            return None
        raise


def _document(client: Api, ready: Document) -> Document:
    """The output of `--json`."""
    found = [_counted(name, client.get("/v1/deliveries", _by_reason(name))) for name in BY_REASON]
    subscriptions = client.items("/v1/subscriptions", {}, MAX_LISTED)
    return {
        **ready,
        "deliveries": found,
        "lags": [{"subscription": one["id"], **one["lag"]} for one in subscriptions if "lag" in one],
        "failing": [
            {
                "subscription": one["id"],
                "sink": one["sink"],
                "since": one["failing_since"],
                "reason": one.get("failing_reason"),
            }
            for one in filter(is_failing, subscriptions)
        ],
    }


def _by_reason(name: str) -> Document:
    return {"state": BY_REASON[name], "group_by": "reason", "limit": MAX_LISTED}


def _counted(name: str, groups: Document) -> dict[str, Any]:
    """The deliveries of one name: how many, and when the oldest was made."""
    items = [one for one in groups["items"] if name != "skipped" or one["reason"] in SKIPPED]
    return {
        "deliveries": name,
        "count": sum(one["count"] for one in items),
        "oldest_at": min((one["oldest_at"] for one in items), default=None),
        "truncated": groups["truncated"],
    }


def _skipped_lines(found: Document) -> list[str]:
    if not found["count"]:
        return []
    least = "at least " if found["truncated"] else ""
    why = "skipped, because the CRM has no person for them, or several"
    return [f"{least}{found['count']:,} events {why}: relay deliveries list --state cancelled --group-by reason,sink"]


def _lag_line(subscription: Document) -> str:
    count, oldest = subscription["lag"]["count"], in_words(subscription["lag"]["oldest_seconds"] or 0.0)
    name, command = subscription["description"] or subscription["id"], f"relay subscriptions show {subscription['id']}"
    return f"{name} has not acknowledged {count:,} events, the oldest for {oldest}: {command}"


# --- --watch


def _watch(client: Api, *, json: bool) -> None:
    """Shows it until Ctrl-C. While no relay answers it says so, below what was shown last."""
    screen, answered_at = _Screen(), time.time()
    last: list[str] = []
    while True:
        try:
            ready = client.get("/readyz", accepted=503)
            if json:
                print_json(_document(client, ready))
            else:
                last, answered_at = _overview(client, ready, terminal_width()), time.time()
                screen.draw([*last, "", f"{time.strftime('%H:%M:%S')}, again every {WATCH_SECONDS:.0f} s"])
        except (Unreachable, ApiError) as error:
            if isinstance(error, ApiError) and error.exit_code == 2:
                raise
            lost = f"No answer for {in_words(time.time() - answered_at)}: {error}"
            if json:
                note(lost)
            else:
                screen.draw([*last, "", *_wrapped(lost, terminal_width())])
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)


class _Screen:
    """Draws blocks of lines: on a terminal each over the one before, else one after the other."""

    def __init__(self) -> None:
        self._drawn = 0

    def draw(self, lines: Sequence[str]) -> None:
        """Shows the block. On a terminal what does not fit is left out from the middle: the first lines have the worst
        thing, the last one the time."""
        if terminal_width() is None:
            typer.echo("\n".join([*lines, ""]))
            return
        shown = fitted(lines, shutil.get_terminal_size((80, DEFAULT_HEIGHT)).lines - 1)
        over = f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else ""
        sys.stdout.write(over + "\n".join([*shown, ""]))  # echo would leave out what moves the cursor
        self._drawn = len(shown)


def fitted(lines: Sequence[str], height: int) -> list[str]:
    """The lines that fit on a terminal of this height."""
    if len(lines) <= height:
        return list(lines)
    return [*lines[: max(height - 2, 1)], "…", lines[-1]]


# --- relay settings


SETTING_COLUMNS = ("key", "value", "place", "change")


def settings(
    changed: Annotated[bool, typer.Option("--changed", help="Only those that are not the default.")] = False,
    json: Json = False,
) -> None:
    """Show the settings that the relay runs with. Includes where each was written, and what SIGHUP applies."""
    items = api().get("/v1/settings")["items"]
    found = [one for one in items if not changed or one["place"] != DEFAULT]
    print_list(found, SETTING_COLUMNS, _setting_row, empty="every setting has its default", json=json, table="settings")


def _setting_row(setting: Mapping[str, Any]) -> list[str]:
    return [setting["key"], shown(setting), setting["place"], "SIGHUP" if setting["reloaded"] else "restart"]


def shown(setting: Mapping[str, Any]) -> str:
    """The value for a person; of a secret only whether it is set."""
    if not setting["set"]:
        return "not set"
    if setting["secret"] and setting["value"] is None:
        return "set"
    value = setting["value"]
    return value if isinstance(value, str) else str(dumps(value).decode())
