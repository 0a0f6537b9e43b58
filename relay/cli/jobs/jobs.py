"""`relay jobs`: the tracked jobs. `relay erase`: what is stored about a person, a group or a job. `relay intents`:
creates with unknown fate."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from relay.cli.client import Api, api, in_cli_words, path_of
from relay.cli.options import Json, Limit, given, read_metadata, split_names, time_or_age
from relay.cli.output import note, print_fields, print_json, print_list, print_object, print_result, say, working
from relay.clock import in_words
from relay.core.turns import turn_of_failure
from relay.errors import UsageError

WAIT_SECONDS = 60
TIMEOUT_MARGIN_SECONDS = 15.0
MIN_REPEAT_SECONDS = 1.0
TIME_IS_UP = 124
"""The exit code, as of timeout(1)."""
MAX_EVENTS = 1000
BULK_IDS = 100
"""In one request."""
COLUMNS = ("id", "channel", "account", "status", "tracked", "next", "error")

app = typer.Typer(help="Track upstream jobs and see their progress.", no_args_is_help=True)

Source = Annotated[str | None, typer.Option(help="The source, if there are several.")]
Account = Annotated[str | None, typer.Option(help="The account, if there are several.")]
Resource = Annotated[
    str | None, typer.Option(metavar="NAME", help="The kind of job, by its name in the source's definition.")
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The upstream's id, or the relay's uid (job_…).")]
JobIds = Annotated[list[str], typer.Argument(metavar="ID...", help="The upstream's ids, or the relay's uids (job_…).")]
CallbackTypes = Annotated[
    str | None, typer.Option(metavar="TYPES", help="Only these events for the callback, such as succeeded,failed.")
]


@app.command()
def add(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of upstream jobs.")],
    callback: Annotated[str | None, typer.Option(help="URL that gets the events of these jobs.")] = None,
    callback_types: CallbackTypes = None,
    metadata: Annotated[str | None, typer.Option(help="JSON object to include in every event.")] = None,
    group: Annotated[str | None, typer.Option(help="The group that they join.")] = None,
    priority: Annotated[str | None, typer.Option(help="low, normal or high: how much a late event costs.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which a job is reported as overdue.")] = None,
    source: Source = None,
    account: Account = None,
    resource: Resource = None,
    status_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The address at which the upstream shows the job. One ID only.")
    ] = None,
    json: Json = False,
) -> None:
    """Track jobs. With --json one id prints an object, several print an array."""
    if callback_types is not None and callback is None:
        raise UsageError("--callback-types needs --callback")
    if status_url is not None and len(ids) > 1:
        raise UsageError("--status-url is the address of one job. Add the others by themselves")
    body = given(
        callback_url=callback,
        callback_types=_types(callback_types),
        metadata=read_metadata(metadata),
        group=group,
        priority=priority,
        deadline_seconds=deadline,
        status_url=status_url,
        **_which(source, account, resource),
    )
    client = api()
    with working(f"tracking {len(ids)} job{'s' if len(ids) > 1 else ''}"):
        answers = [client.send("POST", "/v1/jobs", body={"id": id, **body}) for id in ids]
    if json:
        print_json(answers[0].document if len(answers) == 1 else [answer.document for answer in answers])
        return
    for answer in answers:
        job = answer.document
        known = "tracked" if answer.status == 201 else "already tracked"
        say(f"{job['id']} is {known} as {job['uid']} (status: {job['status'] or 'not polled yet'})")
        for warning in job.get("warnings", ()):
            note(f"relay: {warning}")


@app.command("import")
def import_jobs(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The input. Standard input if missing or -.")
    ] = None,
    callback_url: Annotated[str | None, typer.Option(help="URL that gets the events, for jobs without one.")] = None,
    callback_types: CallbackTypes = None,
    metadata: Annotated[str | None, typer.Option(help="JSON object for every event, for jobs without one.")] = None,
    group: Annotated[str | None, typer.Option(help="The group that they join, for jobs without one.")] = None,
    source: Annotated[str | None, typer.Option(help="The source, for jobs without one.")] = None,
    account: Annotated[str | None, typer.Option(help="The account, for jobs without one.")] = None,
    resource: Annotated[str | None, typer.Option(metavar="NAME", help="The kind of job, for jobs without one.")] = None,
    json: Json = False,
) -> None:
    """Track the jobs in a CSV, JSON lines or a list of ids. Exit code 2: some were rejected."""
    from relay.cli.jobs.importing import run

    defaults = given(
        callback_url=callback_url,
        callback_types=_types(callback_types),
        metadata=read_metadata(metadata),
        group=group,
        **_which(source, account, resource),
    )
    is_stdin = file is None or str(file) == "-"
    accepted = run(api(), None if is_stdin else file, defaults, json=json)
    raise typer.Exit(0 if accepted else 2)


@app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs with this status.")] = None,
    open: Annotated[bool | None, typer.Option("--open/--closed", help="Only open or only closed jobs.")] = None,
    group: Annotated[str | None, typer.Option(help="Only jobs of this group.")] = None,
    channel: Annotated[str | None, typer.Option(help="Only jobs of this channel, such as linkedin.")] = None,
    connect_account: Annotated[
        str | None, typer.Option(metavar="ID", help="Only jobs of this sending account.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(metavar="KEY:VALUE", help="Only jobs with this metadata, such as deal:42.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Only jobs with this id, group, sending account or beginning of metadata."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only jobs registered since a time (2026-05-20T10:00:00Z) or age (1d, 6h, 30m).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only jobs registered before this time or age.")] = None,
    source: Source = None,
    account: Account = None,
    resource: Resource = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    query = {
        "search": search,
        "status": status,
        "open": open,
        "group": group,
        "channel": channel,
        "connect_account": connect_account,
        "metadata": metadata,
        "since": time_or_age(since),
        "until": time_or_age(until),
        **_which(source, account, resource),
    }
    empty = "no jobs. Track one with `relay jobs add ID`"
    print_list(api().items("/v1/jobs", query, limit), COLUMNS, _row, empty=empty, json=json, table="jobs list")


def _row(job: dict[str, Any]) -> list[Any]:
    """The job's columns. The error is what the job failed with, else that of the last poll."""
    error = job["problem"] or job["last_error"] or {}
    status = job["outcome"] if job["outcome"] in ("not_found", "untracked") else job["status"]
    times = [job["tracked_at"], job["next_poll_at"]]
    return [job["id"], job["channel"], job["account"], status, *times, error.get("code")]


@app.command()
def show(
    id: JobId, source: Source = None, account: Account = None, resource: Resource = None, json: Json = False
) -> None:
    """Show one job."""
    print_object(api().get(path_of("jobs", id), _which(source, account, resource)), json=json)


def _which(source: str | None, account: str | None, resource: str | None) -> dict[str, str | None]:
    """The query that selects one of several jobs with the same id."""
    return {"source": source, "account": account, "resource": resource}


@app.command()
def wait(
    id: JobId,
    timeout: Annotated[float | None, typer.Option(min=0, help="Maximum seconds to wait.")] = None,
    until: Annotated[
        Literal["running"] | None, typer.Option(help="`running`: wait until the job runs, not until it ends.")
    ] = None,
    source: Source = None,
    account: Account = None,
    resource: Resource = None,
    json: Json = False,
) -> None:
    """Wait for a job. Exit code 0: it succeeded (or runs, with --until running). 1: it did not. 124: time is up."""
    ends_at = None if timeout is None else time.monotonic() + timeout
    client, query = api(), {**_which(source, account, resource), "until": until}
    with working(f"waiting for {id}"):
        while True:
            left = WAIT_SECONDS if ends_at is None else max(0.0, ends_at - time.monotonic())
            asked_at = time.monotonic()
            seconds = min(WAIT_SECONDS, int(left + 0.999))
            job = client.get(
                path_of("jobs", id),
                query,
                headers={"Prefer": f"wait={seconds}"} if seconds else {},
                timeout=seconds + TIMEOUT_MARGIN_SECONDS,
            )
            satisfied = not job["open"] or (until == "running" and _has_run(client, job))
            if satisfied or (ends_at is not None and time.monotonic() >= ends_at):
                break
            if time.monotonic() - asked_at < min(seconds, MIN_REPEAT_SECONDS):
                time.sleep(MIN_REPEAT_SECONDS)  # a relay that is shutting down answers at once
    if json or satisfied:
        print_result(job, f"{job['id']} is {job['status'] if job['open'] else job['outcome']}", json=json)
    else:
        note(f"time is up: {job['id']} is still {job['status'] or 'not polled'}")
    if not satisfied:
        raise typer.Exit(TIME_IS_UP)
    raise typer.Exit(0 if job["outcome"] == "succeeded" or job["open"] else 1)


@app.command()
def explain(
    id: JobId, source: Source = None, account: Account = None, resource: Resource = None, json: Json = False
) -> None:
    """Explain a job. Says what it is waiting for, when its next poll is, and why not earlier."""
    answer = api().get(path_of("jobs", id, "explain"), _which(source, account, resource))
    if json:
        print_json(answer)
        return
    fields = dict(answer)
    sentence, error, outlook = (fields.pop(name, None) for name in ("sentence", "last_error", "outlook"))
    if sentence:
        say(sentence)
    if outlook:
        price = "less than 0.1 s" if outlook["price_seconds"] < 0.1 else in_words(outlook["price_seconds"])
        say(f"Price of a poll: {price}. The job is polled once that is expected to save so much delay.")
    if error:
        at = "" if error["at"] is None else f", at {error['at']}"
        what = f"{error['code']} ({error['message']})" if error["message"] else error["code"]
        say(f"Last error: {what}{at}. {error['meaning']}. To fix it ({turn_of_failure(error['who'])}): {error['fix']}.")
    print_fields(fields)


@app.command()
def refresh(
    ids: JobIds, source: Source = None, account: Account = None, resource: Resource = None, json: Json = False
) -> None:
    """Poll jobs as soon as the budget allows. Exit code 1: some could not be."""
    if len(ids) == 1:
        query = _which(source, account, resource)
        job = api().send("POST", path_of("jobs", ids[0], "refresh"), query=query, body={}).document
        print_result(job, f"{ids[0]} is polled as soon as the budget allows", json=json)
        return
    _change("refresh", ids, "is polled as soon as the budget allows", (source, account, resource), json=json)


@app.command()
def remove(
    ids: JobIds,
    purge: Annotated[bool, typer.Option("--purge", help="Also erase the job, its events and attempts.")] = False,
    source: Source = None,
    account: Account = None,
    resource: Resource = None,
    json: Json = False,
) -> None:
    """Stop polling jobs. Pending deliveries continue. Exit code 1: some of several were not found."""
    if len(ids) == 1:
        query: dict[str, Any] = {**_which(source, account, resource), "purge": True if purge else None}
        job = api().delete(path_of("jobs", ids[0]), query)
        print_result(job, f"{ids[0]} is {'erased' if purge else 'no longer tracked'}", json=json)
        return
    if purge:
        raise UsageError("--purge takes one ID")
    _change("untrack", ids, "is no longer tracked", (source, account, resource), json=json)


def _change(action: str, ids: Sequence[str], done: str, which: Sequence[str | None], *, json: bool) -> NoReturn:
    """Changes several jobs, and says what came of each."""
    if any(one is not None for one in which):
        raise UsageError("--source, --account and --resource take one ID. Use the uids (job_…) of several jobs")
    client, items = api(), []
    for first in range(0, len(ids), BULK_IDS):
        body = {"action": action, "ids": list(ids[first : first + BULK_IDS])}
        items += client.post("/v1/jobs/bulk", body)["items"]
    if json:
        print_json(items)
    else:
        for item in items:
            say(f"{item['id']} {done}" if item["error"] is None else f"{item['id']}: {in_cli_words(item['error'])}")
    raise typer.Exit(1 if any(item["error"] is not None for item in items) else 0)


def _types(text: str | None) -> list[str] | None:
    return split_names(text, "--callback-types", "succeeded,failed")


def _has_run(client: Api, job: dict[str, Any]) -> bool:
    """True if the job runs or has run, including one that failed and waits for its next attempt."""
    if job["status"] == "running":
        return True
    if not job["sequence"]:
        return False
    events = client.items(path_of("jobs", job["uid"], "events"), {}, MAX_EVENTS)
    return any(str(event.get("type", "")).endswith((".running", ".retrying")) for event in events)


STEP_TIMEOUT_SECONDS = 120.0
COUNTS = ("jobs", "events", "deliveries", "attempts", "intents")


def erase(
    metadata: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A field of the metadata and its exact value. Finds nothing that proxy.capture keeps: erase the job.",
        ),
    ] = None,
    group: Annotated[str | None, typer.Option(help="A group of jobs, by its name.")] = None,
    job: Annotated[str | None, typer.Option(metavar="ID", help="The upstream's id of a job, or its uid.")] = None,
    subject: Annotated[str | None, typer.Option(help="The subject of events that programs have published.")] = None,
    source: Source = None,
    account: Account = None,
    json: Json = False,
) -> None:
    """Erase a person, a group or a job. Removes jobs, events, deliveries, attempts and intents. It cannot be undone."""
    if [metadata, group, job, subject].count(None) != 3:
        raise UsageError("use exactly one of --metadata, --group, --job and --subject")
    fields = None
    if metadata is not None:
        name, _, value = metadata.partition("=")
        if not (name and value):
            raise UsageError("--metadata: use NAME=VALUE, such as deal=42")
        fields = {name: value}
    named = {"metadata": fields, "group": group, "job": job, "subject": subject}
    body = given(**named, source=source, account=account)
    total, client, cursor = dict.fromkeys((*COUNTS, "in_flight"), 0), api(), None
    with working("erasing"):
        while True:
            answer: Any = client.post("/v1/erasures", given(**body, cursor=cursor), timeout=STEP_TIMEOUT_SECONDS)
            total = {name: count + answer[name] for name, count in total.items()}
            cursor = answer["next_cursor"]
            if cursor is None:
                break
    if json:
        print_json(total)
    else:
        say(f"erased {', '.join(f'{total[name]:,} {name}' for name in COUNTS)}")
    if total["in_flight"]:
        note(f"{total['in_flight']} creates that match are in flight: run this again once they are answered")
        raise typer.Exit(1)


intents_app = typer.Typer(help="List creates with unknown fate and record the outcome.", no_args_is_help=True)

IntentId = Annotated[str, typer.Argument(metavar="ID", help="The intent's id (int_…).")]
INTENT_COLUMNS = ("id", "sent_at", "account", "path", "reason", "idempotency_key")


@intents_app.command("list")
def list_intents(limit: Limit = 50, json: Json = False) -> None:
    """List creates that may or may not have been sent, newest first."""
    empty = "no intents: the fate of every create is known"
    print_list(api().items("/v1/intents", {}, limit), INTENT_COLUMNS, empty=empty, json=json, table="intents list")


@intents_app.command()
def resolve(
    id: IntentId,
    fate: Annotated[Literal["sent", "not_sent"], typer.Option(help="Whether the create was carried out.")],
    job_id: Annotated[str | None, typer.Option(help="The job that it created. It is then tracked.")] = None,
    json: Json = False,
) -> None:
    """Record the outcome once you have checked with the upstream. Nothing is sent upstream."""
    answer = api().post(path_of("intents", id, "resolve"), given(fate=fate, job_id=job_id))
    tracked = "" if job_id is None else f". Job {job_id} is tracked"
    print_result(answer, f"{id} is resolved as {fate}{tracked}", json=json)


@intents_app.command("remove")
def remove_intent(id: IntentId, json: Json = False) -> None:
    """Remove an intent from the list. Nothing is sent upstream."""
    print_result(api().delete(path_of("intents", id)), f"{id} is removed from the list", json=json)
