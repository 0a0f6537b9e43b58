"""`relay subscriptions`: who gets which events. And `relay signing-secret`."""

import sys
from typing import Annotated, Any

import typer

from relay.cli.client import api, full_types, segment
from relay.cli.output import Json, Limit, clean, note, print_fields, print_json, print_table, say, working
from relay.cli.replays import COUNT_TIMEOUT_SECONDS, SINCE_HELP, Wait, follow_up, moment
from relay.errors import RelayError, UsageError

app = typer.Typer(help="Say who gets which events.", no_args_is_help=True)

SubscriptionId = Annotated[str, typer.Argument(metavar="ID", help="The subscription's id (sub_…).")]
Types = Annotated[str | None, typer.Option(help="Event types, such as failed,overdue.")]
Source = Annotated[str | None, typer.Option(help="Only events of this CloudEvents source.")]
Kind = Annotated[str | None, typer.Option(help="webhook, slack; by default what the host is known for.")]
Header = Annotated[
    list[str] | None, typer.Option(metavar="NAME: VALUE", help="A header of each request; may be given several times.")
]
Method = Annotated[str | None, typer.Option(help="POST or PUT.")]
Ordering = Annotated[str | None, typer.Option(help="job: in order within a job; none: as they come.")]
TimeoutSeconds = Annotated[float | None, typer.Option("--timeout", help="Seconds that an attempt may take.")]
RetrySchedule = Annotated[str | None, typer.Option(help="Pauses between attempts, such as 5s,5m,2h.")]
Rate = Annotated[float | None, typer.Option(help="Deliveries a second at most.")]
Concurrency = Annotated[int | None, typer.Option(help="Deliveries out at once at most.")]
MetadataKeys = Annotated[
    str | None, typer.Option(help="slack: fields of a job's metadata to show, such as deal,owner.")
]
Description = Annotated[str | None, typer.Option(help="A text of yours.")]
TEST_TIMEOUT_SECONDS = 90.0
FAILED = "ai.revor.job.failed"


@app.command()
def add(
    sink: Annotated[str, typer.Argument(metavar="SINK", help="URL that gets the events.")],
    types: Types = None,
    source: Source = None,
    kind: Kind = None,
    header: Header = None,
    method: Method = None,
    ordering: Ordering = None,
    start: Annotated[
        str | None, typer.Option(help="Events recorded since: now, earliest, a time, or an age such as 1d.")
    ] = None,
    timeout: TimeoutSeconds = None,
    retry_schedule: RetrySchedule = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    secret: Annotated[str | None, typer.Option(help="Your own signing secret, whsec_…; one is made without.")] = None,
    metadata_keys: MetadataKeys = None,
    description: Description = None,
    test: Annotated[bool, typer.Option(help="Send a sample.")] = True,
    duplicate: Annotated[
        bool, typer.Option("--duplicate", help="Add it even if this URL is subscribed already.")
    ] = False,
    json: Json = False,
) -> None:
    """Subscribe a URL, send it a sample, and say what will arrive. The secret is shown this once.

    Exit code 1 when the sink does not take the sample: the subscription is kept.
    """
    given = _body(
        {"sink": sink, "types": full_types(types), "source": source, "description": description},
        {"headers": _headers(header), "method": method},
        {
            **_config(kind, ordering, timeout, retry_schedule, rate, concurrency, metadata_keys),
            "start": start if start in ("now", "earliest") else moment(start),
            "secret": secret,
        },
    )
    answer = api().send("POST", "/v1/subscriptions", query=None if duplicate else {"reuse": True}, body=given)
    made, is_new = answer.document, answer.status == 201
    if not is_new:
        _offer(made, json=json)
    tested = _test(made["id"], _sample_type(made.get("types"))) if test else None
    if json:
        print_json({**made, "test": tested} if test else made)
    else:
        _introduce(made, named=types is not None)
        if tested is not None:
            say(_verdict(made["id"], tested))
    if test and (tested is None or not _taken(tested)):
        raise typer.Exit(1)


def _offer(found: dict[str, Any], *, json: bool) -> None:
    """Asks whether to go on with the subscription that is there. Raises UsageError where no one can be asked, or says
    no."""
    id = found["id"]
    what = f"{found.get('sink')} is subscribed already, as {id} ({found.get('state')})"
    if json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(f"{what}. Use it: `relay subscriptions test {id}`. To add another one, give --duplicate")
    if not typer.confirm(clean(f"{what}. Use it, with its settings as they are?"), default=True):
        raise UsageError("nothing was added. To add another subscription of this URL, give --duplicate")


def _introduce(subscription: dict[str, Any], *, named: bool) -> None:
    config = subscription.get("config") or {}
    say(f"{subscription['id']} is {subscription.get('state', 'enabled')}")
    if config.get("secret") and config.get("kind", "webhook") == "webhook":
        say(f"signing secret, shown this once: {config['secret']}")
    say(expectation(config.get("kind", "webhook"), subscription.get("types"), named=named))


def _sample_type(types: list[str] | None) -> str:
    """The sample to send to a new subscription: a failed job, unless it gets none of these."""
    wanted = types or [FAILED]
    return next((type for type in wanted if type.endswith(".job.failed")), wanted[0])


def _names(text: str | None, option: str, example: str) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} is empty: write it like {example}")
    return names


def _headers(lines: list[str] | None) -> dict[str, str] | None:
    if not lines:
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError("--header has no colon: write it like 'X-Team: sales'")
        headers[name.strip()] = value.strip()
    return headers


def _config(
    kind: str | None,
    ordering: str | None,
    timeout: float | None,
    retry_schedule: str | None,
    rate: float | None,
    concurrency: int | None,
    metadata_keys: str | None,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "ordering": ordering,
        "timeout_seconds": timeout,
        "retry_schedule": _names(retry_schedule, "--retry-schedule", "5s,5m,2h"),
        "rate_per_second": rate,
        "concurrency": concurrency,
        "metadata_keys": _names(metadata_keys, "--metadata-keys", "deal,owner"),
    }


def _body(top: dict[str, Any], protocolsettings: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The parts of a subscription that were given."""
    parts = {**top, "protocolsettings": _given(protocolsettings) or None, "config": _given(config) or None}
    return _given(parts)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@app.command("list")
def list_subscriptions(
    callbacks: Annotated[bool, typer.Option("--callbacks", help="Those made by callback URLs too.")] = False,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List subscriptions, newest first."""
    found = api().items("/v1/subscriptions", {"callbacks": True if callbacks else None}, limit)
    if json:
        print_json(found)
        return
    rows = [
        [one["id"], *standing(one), (one.get("config") or {}).get("kind"), one.get("sink"), _types(one.get("types"))]
        for one in found
    ]
    empty = "no subscriptions: make one with `relay subscriptions add URL`"
    print_table(("id", "state", "since", "why", "kind", "sink", "types"), rows, empty=empty)


@app.command()
def show(id: SubscriptionId, json: Json = False) -> None:
    """Show one subscription: how it stands, since when and why, and its settings."""
    found = api().get(f"/v1/subscriptions/{segment(id)}")
    print_json(found) if json else print_fields(found)


@app.command()
def edit(
    id: SubscriptionId,
    sink: Annotated[
        str | None, typer.Option(help="Another URL. Stored header values go to the same host only.")
    ] = None,
    types: Types = None,
    source: Source = None,
    kind: Kind = None,
    header: Header = None,
    method: Method = None,
    ordering: Ordering = None,
    timeout: TimeoutSeconds = None,
    retry_schedule: RetrySchedule = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    metadata_keys: MetadataKeys = None,
    description: Description = None,
    unset: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="Back to the default, such as types; several times.")
    ] = None,
    json: Json = False,
) -> None:
    """Change some settings of a subscription; the others stay. --header replaces all of its headers."""
    changes = _body(
        {"sink": sink, "types": full_types(types), "source": source, "description": description},
        {"headers": _headers(header), "method": method},
        _config(kind, ordering, timeout, retry_schedule, rate, concurrency, metadata_keys),
    )
    gone = [_unset(name) for name in unset or ()]
    if not changes and not gone:
        raise UsageError("nothing is to be changed: give an option such as --types failed, or --unset types")
    client, path = api(), f"/v1/subscriptions/{segment(id)}"
    body = client.get(path)
    for part in ("protocolsettings", "config"):
        body[part] = {**(body.get(part) or {}), **changes.pop(part, {})}
    body |= changes
    for place, name in gone:
        (body[place] if place else body).pop(name, None)
    changed = client.send("PUT", path, body=body).document
    if json:
        print_json(changed)
        return
    say(f"{id} is changed")
    say(expectation((changed.get("config") or {}).get("kind", "webhook"), changed.get("types"), named=True))


_UNSET = {
    **dict.fromkeys(("types", "source", "description"), ""),
    **dict.fromkeys(("headers", "method"), "protocolsettings"),
    **dict.fromkeys(("kind", "ordering", "retry_schedule", "concurrency", "metadata_keys"), "config"),
}
_UNSET_NAMES = {"header": "headers", "timeout": "timeout_seconds", "rate": "rate_per_second"}


def _unset(option: str) -> tuple[str, str]:
    """Where an option's setting stands in a subscription. Raises UsageError for one that there is not."""
    plain = option.lstrip("-").replace("-", "_")
    name = _UNSET_NAMES.get(plain, plain)
    place = "config" if name in ("timeout_seconds", "rate_per_second") else _UNSET.get(name)
    if place is None:
        known = sorted({*_UNSET, *_UNSET_NAMES} - {"headers"})
        raise UsageError(f"--unset {option!r:.40} is not known: it takes {', '.join(known)}")
    return place, name


@app.command("test")
def send_sample(
    id: SubscriptionId,
    type: Annotated[str | None, typer.Option(help="Event type of the sample, such as failed.")] = None,
    json: Json = False,
) -> None:
    """Send a realistic sample now. Exit code 1 when the sink does not take it."""
    named = full_types(type)
    tested = _test(id, named[0] if named else None, raising=True)
    print_json(tested) if json else say(_verdict(id, tested))
    raise typer.Exit(0 if _taken(tested) else 1)


@app.command()
def pause(id: SubscriptionId, json: Json = False) -> None:
    """Hold its deliveries back; its events go on being recorded."""
    _act(id, "pause", "is paused: `relay subscriptions resume` sends what waits", json)


@app.command()
def resume(id: SubscriptionId, json: Json = False) -> None:
    """Send again, beginning with what waits."""
    _act(id, "resume", "is enabled", json)


@app.command("rotate-secret")
def rotate_secret(
    id: SubscriptionId,
    overlap: Annotated[int | None, typer.Option(min=0, help="Seconds that the old secret signs too.")] = None,
    json: Json = False,
) -> None:
    """Make a new signing secret. For a while (a day) both sign."""
    body = {} if overlap is None else {"overlap_seconds": overlap}
    answer = api().post(f"/v1/subscriptions/{segment(id)}/rotate-secret", body)
    if json:
        print_json(answer)
        return
    secret = answer.get("secret") or (answer.get("config") or {}).get("secret")
    say(f"new signing secret, shown this once: {secret}")


@app.command()
def replay(
    id: SubscriptionId,
    since: Annotated[str, typer.Option(help=SINCE_HELP)],
    until: Annotated[str | None, typer.Option(help="Only of events recorded before; now without it.")] = None,
    types: Annotated[str | None, typer.Option(help="Only these event types, such as failed,overdue.")] = None,
    only: Annotated[str, typer.Option(help="undelivered, or all: also what was delivered.")] = "undelivered",
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Send a range of events again, in order within a job and behind new ones."""
    body = {"since": moment(since), "until": moment(until), "types": full_types(types), "only": only}
    given = {name: value for name, value in body.items() if value is not None}
    answer = api().send("POST", f"/v1/subscriptions/{segment(id)}/replay", body=given, timeout=COUNT_TIMEOUT_SECONDS)
    follow_up(answer.document, wait=wait, json=json)


@app.command()
def remove(id: SubscriptionId, json: Json = False) -> None:
    """Remove a subscription; what waits for it is cancelled."""
    answer = api().send("DELETE", f"/v1/subscriptions/{segment(id)}").document
    print_json(answer) if json else say(f"{id} is removed")


def signing_secret(json: Json = False) -> None:
    """Print the secret that signs what goes to callback URLs and `relay listen --forward-to`."""
    answer = api().get("/v1/signing-secret")
    print_json(answer) if json else typer.echo(answer["secret"])


def standing(subscription: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    """How a subscription stands, since when and why. One that is enabled can be failing, or paused by its sink."""
    state = subscription.get("state")
    if state == "enabled" and subscription.get("failing_since") is not None:
        return "failing", subscription["failing_since"], subscription.get("failing_reason")
    why, probe = subscription.get("state_reason"), subscription.get("next_probe_at")
    if probe is not None:
        why = f"{why}; tried again at {probe}"
    return state, subscription.get("state_since"), why


def expectation(kind: str, types: list[str] | None, *, named: bool) -> str:
    """One sentence about what will arrive."""
    if kind == "slack":
        if named and types:
            return f"Slack gets one message for each {_words(types)} event."
        return (
            "Slack gets one message for each failed, overdue and lost job, for each request of which it is unknown "
            "whether it was sent, and when Revor refuses the key or is down."
        )
    if types:
        return f"The sink gets each {_words(types)} event, signed, in order within a job."
    return "The sink gets every event of every job, signed, in order within a job."


def _words(types: list[str]) -> str:
    names = [type.removeprefix("ai.revor.job.") for type in types]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _types(types: list[str] | None) -> str:
    return "all job events" if types is None else ",".join(type.removeprefix("ai.revor.job.") for type in types)


def _act(id: str, action: str, done: str, json: bool) -> None:
    answer = api().post(f"/v1/subscriptions/{segment(id)}/{action}")
    print_json(answer) if json else say(f"{id} {done}")


def _test(id: str, type: str | None, *, raising: bool = False) -> Any:
    body = {} if type is None else {"type": type}
    try:
        with working("sending a sample"):
            path = f"/v1/subscriptions/{segment(id)}/test"
            return api().send("POST", path, body=body, timeout=TEST_TIMEOUT_SECONDS).document
    except RelayError as error:
        if raising:
            raise
        note(f"relay: no sample was sent ({error}). {_next(id)}")
        return None


def _taken(tested: Any) -> bool:
    return bool(tested["delivered"])


def _verdict(id: str, tested: Any) -> str:
    attempt = tested["attempt"]
    if _taken(tested):
        return f"the sample was taken: {attempt['status_code']} in {attempt['duration_ms']:.0f} ms"
    reason = attempt["error"] or tested["reason"] or f"answered {attempt['status_code']}"
    return f"the sample was not taken ({reason}). {_next(id)}"


def _next(id: str) -> str:
    return f"{id} is kept: fix the receiver, then run `relay subscriptions test {id}`"
