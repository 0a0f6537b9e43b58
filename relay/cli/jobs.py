"""`relay jobs`: the tracked jobs."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay.cli.client import Api, api, segment
from relay.cli.output import Json, Limit, note, print_fields, print_json, print_table, say, working
from relay.core.jsontext import JSONDecodeError, loads
from relay.errors import UsageError

if TYPE_CHECKING:
    from relay.cli.importing.lines import Format

WAIT_SECONDS = 60
GRACE_SECONDS = 15.0
AGAIN_SECONDS = 1.0
MAX_EVENTS = 1000
COLUMNS = ("id", "channel", "account", "status", "tracked", "next", "error")
FORMATS: dict[str, "Format | None"] = {"auto": None, "csv": "csv", "jsonl": "jsonl", "answers": "answers"}

app = typer.Typer(help="Track upstream jobs and see how they go.", no_args_is_help=True)

Source = Annotated[str | None, typer.Option(help="The source, when there are several.")]
Account = Annotated[str | None, typer.Option(help="The account, when there are several.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The upstream's id, or the relay's uid (job_…).")]
CallbackTypes = Annotated[
    str | None, typer.Option(metavar="TYPES", help="Only these events for the callback, such as succeeded,failed.")
]


@app.command()
def add(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of upstream jobs.")],
    callback: Annotated[str | None, typer.Option(help="URL that gets the events of these jobs.")] = None,
    callback_types: CallbackTypes = None,
    metadata: Annotated[str | None, typer.Option(help="JSON object that comes back with every event.")] = None,
    priority: Annotated[str | None, typer.Option(help="How much its delay counts: low, normal or high.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which it is reported overdue.")] = None,
    source: Source = None,
    account: Account = None,
    json: Json = False,
) -> None:
    """Track jobs. With --json one id gives an object, several give an array."""
    if callback_types is not None and callback is None:
        raise UsageError("--callback-types says what --callback gets: give that too")
    extra = {
        "callback_url": callback,
        "callback_types": _types(callback_types),
        "metadata": _metadata(metadata),
        "priority": priority,
        "deadline_seconds": deadline,
        "source": source,
        "account": account,
    }
    given = {name: value for name, value in extra.items() if value is not None}
    client = api()
    answers = []
    with working(f"tracking {len(ids)} job{'s' if len(ids) > 1 else ''}"):
        answers = [client.send("POST", "/v1/jobs", body={"id": id, **given}) for id in ids]
    jobs = [answer.document for answer in answers]
    if json:
        print_json(jobs[0] if len(jobs) == 1 else jobs)
        return
    for answer in answers:
        job = answer.document
        known = "tracked" if answer.status == 201 else "already tracked"
        say(f"{job['id']} is {known} as {job['uid']} (status: {job['status'] or 'not seen yet'})")


@app.command("import")
def import_jobs(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Standard input without, or with -.")] = None,
    format: Annotated[str, typer.Option(metavar="FORMAT", help="auto, csv, jsonl or answers.")] = "auto",
    callback_url: Annotated[str | None, typer.Option(help="For jobs without one: URL that gets the events.")] = None,
    callback_types: CallbackTypes = None,
    metadata: Annotated[str | None, typer.Option(help="For jobs without any: JSON object, back in each event.")] = None,
    source: Annotated[str | None, typer.Option(help="For jobs that name none: the source.")] = None,
    account: Annotated[str | None, typer.Option(help="For jobs that name none: the account.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line and send nothing.")] = False,
    rejects: Annotated[Path | None, typer.Option(help="File for what is rejected, to be mended and imported.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an import of this file was cut off.")] = False,
    json: Json = False,
) -> None:
    """Track the jobs of a CSV, JSON lines or a paste of upstream answers. Exit code 1: some were rejected."""
    from relay.cli.importing.run import Plan, run

    if format not in FORMATS:
        raise UsageError(f"--format {format!r:.40} is not known: it takes {', '.join(FORMATS)}")
    given = {
        "callback_url": callback_url,
        "callback_types": _types(callback_types),
        "metadata": _metadata(metadata),
        "source": source,
        "account": account,
    }
    plan = Plan(
        file=None if file is None or str(file) == "-" else file,
        format=FORMATS[format],
        defaults={name: value for name, value in given.items() if value is not None},
        dry_run=dry_run,
        rejects=rejects,
        resume=resume,
        json=json,
    )
    raise typer.Exit(0 if run(plan, api()) else 1)


@app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only those with this status.")] = None,
    open: Annotated[bool | None, typer.Option("--open/--closed", help="Only open or closed ones.")] = None,
    source: Source = None,
    account: Account = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    query = {"status": status, "open": open, "source": source, "account": account}
    jobs = api().items("/v1/jobs", query, limit)
    if json:
        print_json(jobs)
        return
    print_table(COLUMNS, [_row(job) for job in jobs], empty="no jobs: track one with `relay jobs add ID`")


def _row(job: dict[str, Any]) -> list[Any]:
    """A job as the list shows it; its error is the upstream's word, else that of the last poll."""
    upstream = job.get("upstream") or {}
    error = upstream.get("error") or job.get("last_error") or {}
    status = job["outcome"] if job["outcome"] in ("not_found", "untracked") else job["status"]
    times = [job["tracked_at"], job["next_poll_at"]]
    return [job["id"], upstream.get("channel"), job["account"], status, *times, error.get("code")]


@app.command()
def show(id: JobId, source: Source = None, account: Account = None, json: Json = False) -> None:
    """Show one job."""
    job = api().get(f"/v1/jobs/{segment(id)}", {"source": source, "account": account})
    print_json(job) if json else print_fields(job)


@app.command()
def wait(
    id: JobId,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait at most.")] = None,
    until: Annotated[str | None, typer.Option(help="`running`: until it runs, instead of until it ends.")] = None,
    source: Source = None,
    account: Account = None,
    json: Json = False,
) -> None:
    """Wait for a job. Exit code 0: it succeeded (or runs, with --until running); 1: it did not, or time is up."""
    if until not in (None, "running"):
        raise UsageError(f"--until {until!r:.40} is not known: it takes `running`")
    ends_at = None if timeout is None else time.monotonic() + timeout
    client, query = api(), {"source": source, "account": account, "until": until}
    with working(f"waiting for {id}"):
        while True:
            left = WAIT_SECONDS if ends_at is None else max(0.0, ends_at - time.monotonic())
            asked_at = time.monotonic()
            seconds = min(WAIT_SECONDS, int(left + 0.999))
            job = client.get(
                f"/v1/jobs/{segment(id)}",
                query,
                headers={"Prefer": f"wait={seconds}"} if seconds else {},
                timeout=seconds + GRACE_SECONDS,
            )
            satisfied = not job["open"] or (until == "running" and _has_run(client, job))
            if satisfied or (ends_at is not None and time.monotonic() >= ends_at):
                break
            if time.monotonic() - asked_at < min(seconds, AGAIN_SECONDS):
                time.sleep(AGAIN_SECONDS)  # it answered at once although nothing has happened: it is about to stop
    if json:
        print_json(job)
    elif not satisfied:
        note(f"{job['id']} is still {job['status'] or 'unseen'}: time is up")
    else:
        say(f"{job['id']} is {job['status'] if job['open'] else job['outcome']}")
    good = job["outcome"] == "succeeded" or (until == "running" and satisfied and job["open"])
    raise typer.Exit(0 if good else 1)


@app.command()
def explain(id: JobId, source: Source = None, account: Account = None, json: Json = False) -> None:
    """Say what a job waits for, and when and why the relay looks at it next."""
    answer = api().get(f"/v1/jobs/{segment(id)}/explain", {"source": source, "account": account})
    if json:
        print_json(answer)
        return
    fields = dict(answer)
    sentence, error = fields.pop("sentence", None), fields.pop("last_error", None)
    if sentence:
        say(sentence)
    if error:
        at = "" if error["at"] is None else f", at {error['at']}"
        say(f"Last error: {error['code']}{at}. {error['meaning']}. To fix it ({error['who']}): {error['fix']}.")
    print_fields(fields)


@app.command()
def untrack(
    id: JobId,
    purge: Annotated[bool, typer.Option("--purge", help="Erase the job, its events and attempts too.")] = False,
    source: Source = None,
    account: Account = None,
    json: Json = False,
) -> None:
    """Stop looking at a job. What is to be delivered goes on."""
    query = {"source": source, "account": account, "purge": True if purge else None}
    job = api().send("DELETE", f"/v1/jobs/{segment(id)}", query=query).document
    if json:
        print_json(job)
    else:
        say(f"{id} is {'erased' if purge else 'no longer tracked'}")


def _types(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _metadata(text: str | None) -> Any:
    if text is None:
        return None
    try:
        value = loads(text.encode("utf-8", "surrogateescape"))
    except (JSONDecodeError, UnicodeEncodeError):
        value = None
    if not isinstance(value, dict):
        raise UsageError("--metadata is no JSON object: write it like '{\"deal\": 42}'")
    return value


def _has_run(client: Api, job: dict[str, Any]) -> bool:
    """Whether it runs, or did: one that failed and waits for its next attempt has run."""
    if job["status"] == "running":
        return True
    if not job["sequence"]:
        return False
    events = client.items(f"/v1/jobs/{job['uid']}/events", {}, MAX_EVENTS)
    return any(str(event.get("type", "")).endswith((".running", ".retrying")) for event in events)
