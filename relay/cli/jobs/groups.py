"""`relay groups`: groups of jobs, how far they are, and when they have finished."""

from collections.abc import Mapping
from datetime import datetime
from shlex import quote
from typing import Annotated, Any

import typer

from relay.cli.client import TIMEOUT_SECONDS, api, ended, path_of
from relay.cli.jobs.jobs import Account, Source
from relay.cli.options import Json, Limit, given, one_of
from relay.cli.output import print_fields, print_json, print_list, print_result, print_table, progress, say
from relay.clock import from_rfc3339

WATCH_SECONDS = 1
TIMEOUT_MARGIN_SECONDS = 15.0
COLUMNS = ("name", "account", "state", "round", "ended", "failed", "missing", "last job")
_FORECAST = ("rate_per_hour", "expected_finish", "expected_finish_note")
OPEN_STATES = ("queued", "scheduled", "running", "retrying")

app = typer.Typer(help="Follow groups of jobs, such as a campaign.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The group's name.")]


@app.command("list")
def list_groups(
    state: Annotated[str | None, typer.Option(help="Only groups in this state: open or finished.")] = None,
    source: Source = None,
    account: Account = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List groups, newest first."""
    if state is not None:
        one_of(state, ("open", "finished"), "state")
    query = {"state": state, "source": source, "account": account}
    empty = "no groups. Start one with `relay jobs add ID --group NAME`"
    print_list(api().items("/v1/groups", query, limit), COLUMNS, _row, empty=empty, json=json, table="groups list")


@app.command()
def show(
    name: Name,
    watch: Annotated[bool, typer.Option("--watch", help="Show the progress until the group finishes.")] = False,
    source: Source = None,
    account: Account = None,
    json: Json = False,
) -> None:
    """Show one group, its jobs by state, and its failures by code."""
    query = {"source": source, "account": account}
    group = _watched(name, query) if watch else api().get(path_of("groups", name), query)
    if json:
        print_json(group)
        return
    fields = {name: value for name, value in group.items() if name not in _FORECAST}
    counts, failures, senders = fields.pop("counts"), fields.pop("failures"), fields.pop("connect_accounts", [])
    say(sentence(group))
    if group["state"] == "open":
        say(finish_sentence(group, datetime.now().astimezone()))
    print_fields({name: value for name, value in fields.items() if value is not None})
    print_table(("jobs", "state"), [(count, state) for state, count in counts.items() if count], empty="it has no jobs")
    if failures:
        say("")
        print_table(("jobs", "error"), [(one["count"], one["code"]) for one in failures], empty="")
    if senders:
        say("")
        rows = [(one["waiting"], one["name"] or one["id"], one["state"]) for one in senders]
        print_table(("open jobs", "sending account", "state"), rows, empty="")


@app.command()
def close(
    name: Name,
    expected: Annotated[
        int | None, typer.Option(min=0, help="How many jobs it has in all. Default: those that are there.")
    ] = None,
    source: Source = None,
    account: Account = None,
    json: Json = False,
) -> None:
    """State that no more jobs come. The group finishes with its last one."""
    client, query = api(), {"source": source, "account": account}
    group = client.post(path_of("groups", name, "close"), given(expected=expected), query=query)
    print_result(group, sentence(group), json=json)


def sentence(group: Mapping[str, Any]) -> str:
    """The progress of a group."""
    counts = group["counts"]
    ended, total = _ended(counts), _total(group)
    words = [f"{ended:,} of {total:,} jobs have ended"]
    words += [f"{counts[state]:,} {state}" for state in ("failed", "not_found", "cancelled") if counts[state]]
    if group["missing"]:
        words.append(f"{group['missing']:,} did not come")
    state = "closed but not finished" if group["closed"] and group["state"] == "open" else group["state"]
    return f"{group['name']} is {state}: {', '.join(words)}"


def finish_sentence(group: Mapping[str, Any], now: datetime) -> str:
    """The expected finish in the time zone of `now`, or the reason why it is unknown."""
    expected, note, rate = (group.get(name) for name in ("expected_finish", "expected_finish_note", "rate_per_hour"))
    if expected is None:
        return f"When it finishes is unknown. {note or ''}".rstrip()
    first, likely, last = (_local(expected[name], now) for name in ("p10", "p50", "p90"))
    words = f"It is expected to finish {first} to {last}, most likely {likely}."
    if rate:
        words += f" {rate:,.0f} of its jobs end per hour."
    return f"{words} {note}" if note else words


def _local(time: str, now: datetime) -> str:
    """A time of day, with the date unless it is today."""
    at = datetime.fromtimestamp(from_rfc3339(time), now.tzinfo)
    return at.strftime("%H:%M" if at.date() == now.date() else "%Y-%m-%d %H:%M")


def _ended(counts: Mapping[str, int]) -> int:
    return sum(count for state, count in counts.items() if state not in OPEN_STATES)


def _total(group: Mapping[str, Any]) -> int:
    """The jobs that are there, or that are expected if these are more."""
    there, expected = sum(group["counts"].values()), group["expected"] or 0
    return int(max(there, expected))


def _row(group: dict[str, Any]) -> list[Any]:
    counts = group["counts"]
    ended = f"{_ended(counts)}/{_total(group)}"
    return [
        *(group["name"], group["account"], group["state"], group["round"], ended),
        *(counts["failed"], group["missing"], group["last_at"]),
    ]


def _watched(name: str, query: Mapping[str, Any]) -> Any:
    """The group once it has finished. Shows its progress meanwhile."""
    client, options = api(), {"headers": {}, "timeout": TIMEOUT_SECONDS}

    def read() -> Any:
        found = client.get(path_of("groups", name), query, **options)
        options.update(headers={"Prefer": f"wait={WATCH_SECONDS}"}, timeout=WATCH_SECONDS + TIMEOUT_MARGIN_SECONDS)
        return found

    with progress() as bar:
        return ended(
            read,
            lambda group: group["state"] == "finished",
            lambda group: bar(_ended(group["counts"]), _total(group), _described(group), sentence(group)),
            pause_seconds=WATCH_SECONDS,  # a relay that is shutting down answers at once
            again=f"relay groups show {quote(name)} --watch",
        )


def _described(group: Mapping[str, Any]) -> str:
    failed, expected = group["counts"]["failed"], group.get("expected_finish")
    words = [f"{failed:,} failed"] if failed else []
    if expected is not None:
        words.append(f"likely done {_local(expected['p50'], datetime.now().astimezone())}")
    return ", ".join(words)
