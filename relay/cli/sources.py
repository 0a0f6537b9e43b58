"""`relay sources`: the polling of each account, and what a larger budget would bring; tests of definitions, and drafts.
`relay accounts`: those that jobs are sent from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from relay.cli.client import api
from relay.cli.options import Json, Limit, given, one_of
from relay.cli.output import clean, is_terminal, print_json, print_list, print_table, say, say_wrapped
from relay.clock import in_words
from relay.core.events.sentences import counted
from relay.core.jobs.connect_accounts import SHOWN_STATES
from relay.core.polling.budget_effect import budget_effect
from relay.errors import UsageError

if TYPE_CHECKING:
    from relay.cli.definitions.coverage import Stage
    from relay.cli.definitions.drafting import Answers

T = TypeVar("T")
MAX_ACCOUNTS = 100_000
NONE = "-"
LEAST_PER_MINUTE = 0.01
"""A lower rate is shown as none: an estimate that fades never becomes zero."""
COLUMNS = ("account", "state", "open", "ours/limit", "others", "delay", "half", "double")
KEY = (
    "OURS is what the relay may send of the upstream's LIMIT, and OTHERS what other clients seem to send, in requests "
    "per minute. DELAY is the time from a job's end until the relay knows it. HALF and DOUBLE are the delays with half "
    "and double the budget."
)
TROUBLES = {
    "no_key": "no API key, so nothing is polled. Set a key: polling then starts by itself.",
    "unauthorized": "the upstream refuses the API key. Nothing is polled until the key works again.",
    "down": "the upstream is failing. Polling continues, and missed changes are reported late.",
    "elsewhere": "another node polls this account. Ask that node.",
}
NOT_PROVEN = (
    "not proven: base_url, paths, creates, headers, limits and how the key is sent. Only the API itself proves them: "
    "create one real job"
)

app = typer.Typer(
    help="Show the polling of accounts, test definitions.",
)
accounts_app = typer.Typer(help="List the accounts that jobs are sent from.")


@app.command("list")
def sources(json: Json = False) -> None:
    """List the polling of each account. Includes its budget, expected delay, and what a larger budget would bring."""
    found = api().items("/v1/sources", {}, MAX_ACCOUNTS)
    print_list(found, COLUMNS, _row, empty="no accounts. Add one to the settings", json=json, table="sources list")
    if json or not found:
        return
    say("")
    say_wrapped(KEY)
    say("")
    for account in found:
        say_wrapped(f"{account['source']}/{account['account']}: {judgement(account)}")


@app.command("test")
def check_definition(
    source: Annotated[str, typer.Argument(metavar="FILE|PRESET", help="File with a definition, or name of a preset.")],
    json: Json = False,
) -> None:
    """Run a definition against its recorded answers. Shows what each proves, and what is wrong or not covered.

    Exit code 1: something is.
    """
    from relay.cli.definitions.coverage import coverage_of
    from relay.cli.definitions.recorded import read_recorded

    found = coverage_of(read_recorded(source))
    if json:
        print_json({"ok": not found.gaps, **asdict(found)})
    else:
        rows = [(one.resource, one.fate, _stages(one.stages)) for one in found.fates]
        print_table(("resource", "fate", "stages"), rows, empty="no fates")
        say("")
        for gap in found.gaps:
            say(f"gap: {gap}")
        say("every rule and place is covered" if not found.gaps else f"{counted(len(found.gaps), 'gap')}")
        say(NOT_PROVEN)
    raise typer.Exit(1 if found.gaps else 0)


@app.command("new")
def draft_definition(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="URL of one job, such as https://api.example.com/v1/jobs/123.")
    ],
    sample: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON that the URL answers. Default: ask it, once.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME: VALUE'", help="Header to send. The first one carries the key, others are written down."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write. Default: after the title.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a first definition of an API. Reads one answer of it, and asks six questions on a terminal."""
    from relay.cli.definitions.drafting import draft
    from relay.cli.definitions.recorded import name_of, read_text
    from relay.cli.definitions.sample import ask, header_of, sample_in
    from relay.cli.node.local import umask, write_file
    from relay.config.fields import split_url

    headers = [header_of(one) for one in header or ()]
    try:
        split_url(url, allow_query=True)
    except ValueError as error:
        raise UsageError(f"the URL {error}") from None
    if not is_terminal():
        raise UsageError("it asks six questions. Run it on a terminal")
    document = ask(url, headers) if sample is None else sample_in(sample)
    answers = _asked(url, document)
    try:
        text = draft(url, document, answers, headers)
    except RecursionError:
        raise UsageError("the sample is nested too deeply. Use --sample with a part of it") from None
    path = output or Path(f"{name_of(Path(f'{answers.title}.yaml'))}.yaml")
    read_text(text, path)
    write_file(path, text, force=force, mode=0o666 & ~umask())
    name = name_of(path)
    say(f"wrote {path}. Read it, then run `relay sources test {path}`")
    entry = f"{name}: {{file: {path}, accounts: {{default: {{api_key: …}}}}}}"
    say(f"to use it, add this to relay.yaml: sources: {{{entry}}}")


def _asked(url: str, document: Any) -> "Answers":
    """The six answers of a person. Each question has a proposal."""
    from relay.cli.definitions import drafting
    from relay.sources.pointers import at, parse

    def asked(question: str, proposal: str, check: Callable[[str], object] = str) -> str:
        def ask() -> str:
            shown = proposal if proposal.isprintable() else ""  # it may come from the answer
            typed: str = typer.prompt(question, default=shown or NONE).strip()
            answer = "" if typed == NONE else typed
            check(answer)
            return answer

        return _again(ask)

    def asked_words() -> dict[str, list[str]]:
        found = {}
        for state in drafting.STATES:
            text = asked(f"    {state}; {NONE}: none", ",".join(drafting.guessed_words(state, word)))
            found[state] = [one.strip() for one in text.split(",") if one.strip()]
        drafting.check_words(found)
        return found

    def check_title(text: str) -> None:
        if not (text and text.isprintable()):
            raise UsageError("a title is needed, in one line")

    def check_create(text: str) -> None:
        if text and not text.startswith("/"):
            raise UsageError("creates: a path begins with /")

    def check_error(text: str) -> None:
        if text:
            drafting.place_of_error(document, text, drafting.item_at(parse(id), parse(status)))

    found = drafting.guess(url, document)
    title = asked("1/6 Title", found.title, check_title)
    id = asked("2/6 Where the id is, as a JSON pointer", found.id, lambda text: drafting.place_of_id(document, text))
    status = asked("3/6 Where the status is", found.status, lambda text: drafting.place_of_status(document, id, text))
    word = at(document, parse(status))
    say(f"4/6 Its words, separated by commas. This answer has: {clean(word)}")
    words = _again(asked_words)
    if not words["failed"]:
        say("no word means failed: a job with another word stays open")
    error = asked(f"5/6 Where the error of a failed job is; {NONE}: nowhere", found.error, check_error)
    create = asked(f"6/6 Path of the POST that creates a job; {NONE}: none", found.create, check_create)
    return drafting.Answers(title=title, id=id, status=status, error=error, create=create, words=words)


def _again(ask: Callable[[], T]) -> T:
    """What a question brings that is asked until the answer fits, three times at most."""
    for _ in range(2):
        try:
            return ask()
        except UsageError as error:
            say(f"{error}. Try again")
    return ask()


def _stages(stages: "Sequence[Stage]") -> str:
    """Each stage as the upstream's word and the state that it proves."""
    return " > ".join(f"{one.word}: {one.state or '?'}" for one in stages)


def _row(account: Mapping[str, Any]) -> list[str]:
    limit, window = account.get("limit"), account.get("window_seconds")
    limit_per_second = limit / window if limit is not None and window else None
    return [
        f"{account['source']}/{account['account']}",
        account["state"],
        str(account["open_jobs"]),
        f"{_per_minute(account.get('own_requests_per_second'))}/{_per_minute(limit_per_second)}",
        _per_minute(account.get("others_requests_per_second")),
        _delay(account.get("expected_detection_delay_seconds")),
        _delay(account.get("expected_detection_delay_at_half_budget_seconds")),
        _delay(account.get("expected_detection_delay_at_double_budget_seconds")),
    ]


def _per_minute(requests_per_second: float | None) -> str:
    if requests_per_second is None:
        return "-"
    per_minute = requests_per_second * 60
    if per_minute < LEAST_PER_MINUTE:
        return "0"
    return f"{per_minute:.0f}" if per_minute >= 9.95 else f"{per_minute:.2g}"


def _delay(seconds: float | None) -> str:
    return "-" if seconds is None else in_words(seconds)


def judgement(account: Mapping[str, Any]) -> str:
    """Advice on one account: the expected delay, and whether another budget would change it."""
    if account["state"] in TROUBLES:
        said = (account.get("problem") or {}).get("message")
        return f"{TROUBLES[account['state']]}{f' It said: {said}' if said else ''}"
    if not account["open_jobs"]:
        return "no open jobs, so nothing is polled."
    delay = account.get("expected_detection_delay_seconds")
    if delay is None:
        return "not enough data yet to estimate the delay."
    known = f"a job's end is known about {in_words(delay)} after it happens."
    double = account.get("expected_detection_delay_at_double_budget_seconds")
    half = account.get("expected_detection_delay_at_half_budget_seconds")
    if double is None or half is None:
        return known
    effect = budget_effect(delay, half, double)
    if effect == "larger":
        return f"{known} With double the budget: {in_words(double)}, with half of it: {in_words(half)}."
    if effect == "smaller":
        return f"{known} A larger budget would hardly change that. With half of it: {in_words(half)}."
    return f"{known} Neither a larger nor a smaller budget would change much."


ACCOUNT_COLUMNS = ("id", "name", "channel", "account", "state", "since", "open jobs", "trouble")


@accounts_app.command("list")
def accounts(
    source: Annotated[str | None, typer.Option(help="Only those of this source.")] = None,
    account: Annotated[str | None, typer.Option(help="Only those that this account lists.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only accounts in this state: ok, needs_reconnect, cannot_send or removed.")
    ] = None,
    limit: Limit = 500,
    json: Json = False,
) -> None:
    """List the accounts that jobs are sent from. Says whether each can send, and how many open jobs name it.

    TROUBLE: an open incident whose jobs failed because of the account.
    """
    if state is not None:
        one_of(state, SHOWN_STATES, "state")
    found = api().items("/v1/connect-accounts", given(source=source, account=account, state=state), limit)
    empty = "no accounts. They are listed once polling has begun: see `relay sources list`"
    print_list(found, ACCOUNT_COLUMNS, _account_row, empty=empty, json=json, table="accounts list")


def _account_row(one: Mapping[str, Any]) -> list[str | None]:
    place = f"{one['source']}/{one['account']}"
    known = [one["id"], one["name"], one["channel"], place, one["state"], one["since"], str(one["open_jobs"])]
    return [*known, one.get("trouble")]
