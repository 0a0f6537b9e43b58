"""`relay subscriptions`: which sink gets which events. And `relay signing-secret`."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from relay.cli.client import api, path_of
from relay.cli.deliveries.replays import COUNT_TIMEOUT_SECONDS, DryRun, dry_run_of, follow_up
from relay.cli.options import (
    SINCE,
    Json,
    Limit,
    Type,
    Types,
    Until,
    Wait,
    given,
    read_metadata,
    time_or_age,
    type_name,
    type_names,
)
from relay.cli.output import (
    clean,
    is_terminal,
    note,
    print_json,
    print_list,
    print_object,
    print_result,
    say,
    terminal_width,
    working,
)
from relay.cli.subscriptions import crm
from relay.cli.subscriptions.crm import print_preview
from relay.cli.subscriptions.settings import KEPT, PARTS, WithAllSettings, WithSettings, place_of, without_empty
from relay.clock import from_rfc3339, in_words
from relay.core.deliveries.broker import protocol_of
from relay.core.deliveries.delivery import CREDENTIAL_ERROR
from relay.core.jobs.job import short_type
from relay.core.subscriptions.declared import pending_words
from relay.core.subscriptions.subscription import PROTOCOLS, PULL
from relay.errors import RelayError, UsageError

if TYPE_CHECKING:
    from subscribers.base import Kind

app = typer.Typer(help="Choose which sink gets which events.", no_args_is_help=True)

SubscriptionId = Annotated[str, typer.Argument(metavar="ID", help="The subscription's id (sub_…).")]
COLUMNS = ("id", "state", "since", "why", "kind", "sink", "types")
MAX_TYPES_SHOWN = 5
"""Maximum number of types in a table on a terminal."""
TEST_TIMEOUT_SECONDS = 90.0


@app.command(cls=WithAllSettings)
def add(
    context: typer.Context,
    sink: Annotated[
        str,
        typer.Argument(
            metavar="SINK",
            help="URL that gets the events, a broker such as kafkas://host:9093, tls://host or amqps://host/vhost, "
            "pull, or hubspot, salesforce or pipedrive.",
        ),
    ],
    domain: Annotated[
        str | None, typer.Option(metavar="NAME", help="salesforce, pipedrive: your own name there, such as acme.")
    ] = None,
    test: Annotated[
        bool | None,
        typer.Option(
            "--test/--no-test", "--sample/--no-sample", help="Send a sample. A CRM or broker gets one only if asked."
        ),
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="CRMs: a JSON object that names whom the sample is about.")
    ] = None,
    check: Annotated[bool, typer.Option(help="CRMs and brokers: try the sink and its credential first.")] = True,
    duplicate: Annotated[bool, typer.Option("--duplicate", help="Add the URL even if it is subscribed.")] = False,
    json: Json = False,
) -> None:
    """Subscribe a URL, a broker, or a CRM by its name. Sends a sample and says what will arrive. The secret is shown
    only once.

    hubspot, salesforce and pipedrive: asks for what is missing, tries the credential, and shows what would be sent.
    Brokers: connects, and checks the topic, stream, queue or exchange. pull: a program asks for its events.

    Exit code 1: the sink did not accept the sample. The subscription is kept.
    """
    settings = context.obj
    about = read_metadata(metadata)
    name = sink.lower()
    if (named := crm.by_name(name)) is not None:
        body = without_empty(crm.completed(named, settings, domain))
    elif domain is not None:
        raise UsageError(f"--domain is for {', '.join(crm.names())}: {sink:.100} is an address already")
    elif name == PULL:
        body = without_empty({"protocol": "PULL", **settings})
    else:
        crm.refuse_unknown(sink)
        body = without_empty({"sink": sink, **settings})
    query = {"reuse": None if duplicate else True, "check": None if check else False}
    answer = api().send("POST", "/v1/subscriptions", query=query, body=body, timeout=crm.ADD_TIMEOUT_SECONDS)
    subscription = answer.document
    if answer.status != 201:
        _confirm_reuse(subscription, json=json)
    pending = subscription.get("state") == "pending"
    kind = _kind_of(subscription.get("config") or {})
    id, types = subscription["id"], subscription.get("types")
    if not json:
        _introduce(subscription, types_given=settings["types"] is not None)
        if kind.by_name is not None:
            crm.show(api(), id, kind, types, about)
    if kind.by_name is not None:
        test, about = crm.wants_sample(kind, about, test, json=json)
    elif kind.name in PROTOCOLS:  # its consumers would take a sample for real
        test = test is True and kind.name != PULL
    test = test is not False and not pending
    tested = _send_sample(id, _sample_type(types), about) if test else None
    if json:
        print_json({**subscription, "test": tested} if test else subscription)
    elif tested is not None:
        say(_verdict(id, tested, kind))
        if _may_check_a_secret(subscription, tested):
            say(
                "If the receiver checks signatures: a subscription has a secret of its own, not the one that `relay "
                "signing-secret` prints. Give the receiver the secret above. Or use the receiver's: relay "
                f"subscriptions remove {id}, then relay subscriptions add URL --secret whsec_…"
            )
    if pending and not json:
        say(f"The sink is asked for its consent first: relay subscriptions show {id}")
    if test and (tested is None or not tested["delivered"]):
        raise typer.Exit(1)


def _confirm_reuse(found: dict[str, Any], *, json: bool) -> None:
    """Asks whether to use the existing subscription. Raises UsageError without a terminal, or on a no."""
    id = found["id"]
    what = f"{found.get('sink')} is already subscribed as {id} ({found.get('state')})"
    if json or not is_terminal():
        raise UsageError(f"{what}. Use it: `relay subscriptions test {id}`. To add another one, give --duplicate")
    if not typer.confirm(clean(f"{what}. Use it with its current settings?"), default=True):
        raise UsageError("nothing was added. To add another subscription of this URL, give --duplicate")


def _introduce(subscription: dict[str, Any], *, types_given: bool) -> None:
    config = subscription.get("config") or {}
    say(f"{subscription['id']} is {subscription.get('state', 'enabled')}")
    if config.get("portal"):
        say(f"account: {config['portal']}")
    if config.get("secret") and _is_signed(config):
        say(f"signing secret, shown only once: {config['secret']}")
    say(expectation(subscription, types_given=types_given))
    _warn(subscription)


def _warn(subscription: Mapping[str, Any]) -> None:
    for warning in subscription.get("warnings", ()):
        note(f"relay: {warning}")


def _sample_type(types: list[str] | None) -> str:
    """The event type of the sample: a failed job if the subscription gets those, else its first type."""
    return crm.sample_type(types) or "failed"


@app.command("list")
def list_subscriptions(
    callbacks: Annotated[bool, typer.Option("--callbacks", help="Include those that a callback URL created.")] = False,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List subscriptions, newest first."""
    found = api().items("/v1/subscriptions", {"callbacks": True if callbacks else None}, limit)
    empty = "no subscriptions. Add one with `relay subscriptions add URL`"
    pulled = any("lag" in one for one in found)
    columns, row = ((*COLUMNS, "lag"), lambda one: [*_row(one), lag_of(one)]) if pulled else (COLUMNS, _row)
    print_list(found, columns, row, empty=empty, json=json, table="subscriptions list")


def lag_of(subscription: dict[str, Any]) -> str | None:
    """The unacknowledged count and the age of its oldest; None if nothing pulls."""
    lag = subscription.get("lag")
    if not lag:
        return None
    age = lag.get("oldest_seconds")
    return f"{lag['count']:,}" + ("" if age is None else f", {in_words(age)}")


def _row(subscription: dict[str, Any]) -> list[Any]:
    types = subscription.get("types")
    is_terminal = terminal_width() is not None
    between = ", " if is_terminal else ","
    shown = "all job events" if types is None else between.join(map(short_type, types))
    if types is not None and len(types) > MAX_TYPES_SHOWN and is_terminal:
        first = between.join(map(short_type, types[: MAX_TYPES_SHOWN - 1]))
        shown = f"{first} and {len(types) - MAX_TYPES_SHOWN + 1} more"
    kind = (subscription.get("config") or {}).get("kind")
    return [subscription["id"], *standing(subscription), kind, subscription.get("sink"), shown]


@app.command()
def show(id: SubscriptionId, json: Json = False) -> None:
    """Show one subscription. Includes its state, since when and why, and its settings."""
    found = api().get(path_of("subscriptions", id))
    print_object(found, json=json)
    if not json and (pause := pause_of(found, time.time())):
        say(pause)


@app.command(cls=WithSettings)
def edit(
    context: typer.Context,
    id: SubscriptionId,
    sink: Annotated[
        str | None, typer.Option(help="Another URL. Stored header values are sent to the same host only.")
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION", help="Reset a setting to its default, such as types. Can be given several times."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Change some settings of a subscription. The others stay. --header replaces all of its headers."""
    changes = without_empty({"sink": sink, **context.obj})
    removed = [place_of(name) for name in unset or ()]
    if not changes and not removed:
        raise UsageError("nothing to change. Give an option such as --types failed, or --unset types")
    client, path = api(), path_of("subscriptions", id)
    body = client.get(path)
    if sink is not None and (protocol_of(sink) or "HTTP") != body.get("protocol"):
        for name in ("protocol", "protocolsettings"):
            body.pop(name, None)
        body.get("config", {}).pop("kind", None)
    for part in PARTS:
        body[part] = {**(body.get(part) or {}), **changes.pop(part, {})}
    body |= changes
    for part, name in removed:
        (body[part] if part else body).pop(name, None)
        if name in KEPT:
            body[name] = None
    changed = client.send("PUT", path, body=body).document
    print_result(changed, f"{id} is changed", json=json)
    if not json:
        say(expectation(changed, types_given=True))
        _warn(changed)


@app.command("test")
def send_sample(
    id: SubscriptionId,
    type: Type = None,
    metadata: Annotated[
        str | None,
        typer.Option(help="A JSON object, added to the sample's metadata: for a CRM, whom it is about."),
    ] = None,
    json: Json = False,
) -> None:
    """Send a realistic sample now. Exit code 1: the sink did not accept it."""
    tested = _send_sample(id, type_name(type), read_metadata(metadata), raising=True)
    print_result(tested, _verdict(id, tested), json=json)
    if not json and _is_refused(tested) and _may_check_a_secret(api().get(path_of("subscriptions", id)), tested):
        say(
            "If the receiver checks signatures: a subscription has a secret of its own, which was shown when it was "
            "added, not the one that `relay signing-secret` prints. Give the receiver that one, or a new one: relay "
            f"subscriptions rotate-secret {id}"
        )
    raise typer.Exit(0 if tested["delivered"] else 1)


@app.command(cls=WithSettings)
def preview(
    context: typer.Context,
    subscription: Annotated[str, typer.Argument(metavar="ID|SINK", help="A subscription's id, a URL, or pull.")],
    type: Type = None,
    event: Annotated[
        str | None, typer.Option(metavar="ID", help="A recorded event (evt_…) instead of a sample.")
    ] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object, added to the metadata of the sample.")] = None,
    json: Json = False,
) -> None:
    """Show what a subscription would send. Counts the events of the last days that it would have got. Sends nothing.

    With a URL, or pull, it takes the options of `add`. Exit code 1: the subscription does not get the event.
    """
    body = without_empty(context.obj)
    if "://" in subscription:
        body["sink"] = subscription
    elif subscription.lower() == PULL:
        body["protocol"] = "PULL"
    elif body:
        raise UsageError(f"{subscription} is no URL, and an option describes a new subscription. Give its URL")
    asked = {"type": type_name(type), "event_id": event, "metadata": read_metadata(metadata)}
    with working("reading the events of the last days"):
        shown = api().post(
            "/v1/subscriptions/preview",
            given(subscription=body or subscription, **asked),
            timeout=TEST_TIMEOUT_SECONDS,
        )
    print_json(shown) if json else print_preview(shown, sample=event is None)
    raise typer.Exit(0 if shown["matches"] else 1)


@app.command()
def pause(id: SubscriptionId, json: Json = False) -> None:
    """Hold deliveries back. Events are still recorded."""
    answer = api().post(path_of("subscriptions", id, "pause"))
    print_result(answer, f"{id} is paused. `relay subscriptions resume` sends the backlog", json=json)


@app.command()
def resume(id: SubscriptionId, json: Json = False) -> None:
    """Deliver again, starting with the backlog."""
    answer = api().post(path_of("subscriptions", id, "resume"))
    print_result(answer, f"{id} is {answer.get('state', 'enabled')}", json=json)


@app.command("rotate-secret")
def rotate_secret(
    id: SubscriptionId,
    overlap: Annotated[int | None, typer.Option(min=0, help="Seconds in which the old secret still signs.")] = None,
    json: Json = False,
) -> None:
    """Create a new signing secret. Both secrets sign for a while: a day by default."""
    answer = api().post(path_of("subscriptions", id, "rotate-secret"), given(overlap_seconds=overlap))
    print_result(answer, f"new signing secret, shown only once: {answer['secret']}", json=json)


@app.command()
def replay(
    id: SubscriptionId,
    since: Annotated[str, SINCE],
    until: Until = None,
    types: Types = None,
    only: Annotated[
        Literal["undelivered", "all"], typer.Option(help="undelivered, or all: delivered events too.")
    ] = "undelivered",
    dry_run: DryRun = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Send a range of events again. They keep their order within each job and are sent after new events."""
    body = given(since=time_or_age(since), until=time_or_age(until), types=type_names(types), only=only)
    if dry_run:
        dry_run_of(path_of("subscriptions", id, "replay"), body, json=json)
        return
    answer = api().post(path_of("subscriptions", id, "replay"), body, timeout=COUNT_TIMEOUT_SECONDS)
    follow_up(answer, wait=wait, json=json)


@app.command()
def remove(id: SubscriptionId, json: Json = False) -> None:
    """Remove a subscription and cancel its pending deliveries."""
    removed: Any = api().delete(path_of("subscriptions", id))
    print_result(removed, f"{id} is removed, {pending_words(removed['cancelled'])} cancelled", json=json)


def signing_secret(json: Json = False) -> None:
    """Print the signing secret of callback URLs. It also signs what `relay listen` forwards."""
    answer = api().get("/v1/signing-secret")
    print_result(answer, answer["secret"], json=json)


def pause_of(subscription: Mapping[str, Any], now: float) -> str:
    """Until when a subscription waits because of its sink, and why; empty if it does not."""
    until, kind = subscription.get("paused_until"), _kind_of(subscription.get("config") or {})
    if until is None or from_rfc3339(until) <= now:
        return ""
    why = "the sink asked for a pause"
    if subscription.get("failing_reason") == CREDENTIAL_ERROR:
        why = "then a new token is asked for"
    elif kind.by_name is not None:
        why = f"a limit of the account at {kind.title}, which all its subscriptions share"
    return f"No attempt before {until}: {why}."


def standing(subscription: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    """A subscription's state, since when, and why. An enabled one whose deliveries fail is shown as `failing`."""
    state = subscription.get("state")
    if state == "enabled" and subscription.get("failing_since") is not None:
        return "failing", subscription["failing_since"], subscription.get("failing_reason")
    why, probe = subscription.get("state_reason"), subscription.get("next_probe_at")
    if probe is not None:
        why = f"{why}; next probe at {probe}"
    return state, subscription.get("state_since"), why


def expectation(subscription: Mapping[str, Any], *, types_given: bool) -> str:
    """One or two sentences about the events that will arrive."""
    config = subscription.get("config") or {}
    arriving = _kind_of(config).arriving(subscription, types_given=types_given)
    if subscription.get("filters"):
        arriving += " Of these, only what its filters let through."
    if config.get("dry_run"):
        arriving += " Dry run: until `--unset dry-run` nothing is sent, and attempts show what would be."
    return arriving


def _send_sample(id: str, type: str | None, metadata: Any, *, raising: bool = False) -> Any:
    """The result of a sample. Without `raising`, an error is noted and gives None."""
    try:
        with working("sending a sample"):
            asked = given(type=type, metadata=metadata)
            return api().post(path_of("subscriptions", id, "test"), asked, timeout=TEST_TIMEOUT_SECONDS)
    except RelayError as error:
        if raising:
            raise
        note(f"relay: no sample was sent ({error}). {_kept(id)}")
        return None


def _kind_of(config: Mapping[str, Any]) -> "Kind":
    """The kind of a subscription; one that is not known here is taken for a webhook."""
    from subscribers.registry import kinds

    known = kinds()
    return known.get(str(config.get("kind")), known["webhook"])


def _verdict(id: str, tested: Any, kind: "Kind | None" = None) -> str:
    attempt = tested["attempt"]
    if tested.get("verdict") == "skip":
        example = '{"email": "jane@example.com"}' if kind is None or kind.by_name is None else kind.by_name.example
        again = f"relay subscriptions test {id} --metadata '{example}'"
        why = f"the CRM has no contact whom the sample is about ({tested['reason']})"
        return f"nothing was written: {why}. Name one: {again}"
    if tested["delivered"] and tested["reason"] == "acknowledged":
        where = f": {attempt['decision']}" if attempt["decision"] else ""
        return f"the sample was acknowledged in {attempt['duration_ms']:.0f} ms{where}"
    if tested["delivered"] and attempt["status_code"] is None:
        return f"no sample was sent: {tested['reason'].replace('_', ' ')}"
    if tested["delivered"]:
        took = f"{attempt['status_code']} in {attempt['duration_ms']:.0f} ms"
        if kind is None or kind.by_name is None:
            return f"the sample was accepted: {took}"
        return f"the sample was accepted: {took}. It is a record in {kind.title} now: delete it there"
    reason = attempt["error"] or tested["reason"] or f"answered {attempt['status_code']}"
    return f"the sample was not accepted ({reason}). {_kept(id)}"


def _is_signed(config: Mapping[str, Any]) -> bool:
    """True if the kind of sink gets a signature with the subscription's own secret."""
    return _kind_of(config).signed and config.get("signature") != "v1a"


def _is_refused(tested: Any) -> bool:
    """True for the statuses with which receivers reject a signature."""
    return not tested["delivered"] and tested["attempt"]["status_code"] in (400, 401, 403)


def _may_check_a_secret(subscription: Mapping[str, Any], tested: Any) -> bool:
    """True if the sample may have been refused because of its signature."""
    return _is_refused(tested) and _is_signed(subscription.get("config") or {})


def _kept(id: str) -> str:
    return f"{id} is kept: fix the receiver, then run `relay subscriptions test {id}`"
