"""`relay subscriptions add hubspot | salesforce | pipedrive`: asks for what a CRM needs, and shows what it will get.

What is secret comes from a file, the input or a hidden prompt: others can read the arguments of a process.
"""

import difflib
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from relay.cli.client import Api
from relay.cli.options import given, read_metadata
from relay.cli.output import clean, inert_json, print_table, say, say_wrapped, working
from relay.cli.subscriptions.settings import Body
from relay.core.events.sentences import counted
from relay.core.jsontext import JSONDecodeError, dumps, loads
from relay.errors import UsageError

if TYPE_CHECKING:
    from subscribers.base import ByName, Kind

ADD_TIMEOUT_SECONDS = 90.0
"""The relay tries a CRM for up to a minute."""
MAX_VALUE_CHARACTERS = 500
REQUESTS = ("request", "url", "for")
FIELDS = ("field", "value")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,250}(:[0-9]{1,5})?")


def by_name(name: str) -> "Kind | None":
    """The kind of CRM of this name; None: there is none."""
    from subscribers.registry import kinds

    kind = kinds().get(name)
    return None if kind is None or kind.by_name is None else kind


def names() -> list[str]:
    """The kinds of CRMs."""
    from subscribers.registry import kinds

    return [kind.name for kind in kinds().values() if kind.by_name is not None]


def is_interactive() -> bool:
    """True if a person at a terminal can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def refuse_unknown(word: str) -> None:
    """Raises UsageError for a word that is neither a URL nor a CRM, but was meant as one."""
    from subscribers.registry import kinds

    near = difflib.get_close_matches(word.lower(), names(), n=1)
    if "://" in word:
        return
    if near:
        raise UsageError(f"{word!r:.40} is no URL: did you mean {near[0]}?")
    if word.lower() in kinds():
        raise UsageError(f"{word!r:.40} is a kind of sink. Give its URL: the kind of known hosts is found by itself")
    if "." in word:
        raise UsageError(f"{word!r:.80} is no URL: did you mean https://{word:.80}?")


def completed(kind: "Kind", settings: Body, domain: str | None) -> Body:
    """The settings with sink, credential and kind; asks for what is missing. Raises UsageError without a terminal."""
    name, crm = kind.name, _asked_for(kind)
    if settings["config"].get("kind") not in (None, name):
        raise UsageError(f"--kind {settings['config']['kind']:.40} is not {name}: leave it out")
    sink = _sink(kind.title, crm, domain)
    credential = settings.get("sinkcredential")
    if credential is None:
        credential = _asked_credential(crm)
    if crm.token_path and isinstance(credential, dict) and "client_id" in credential:
        credential = {"credentialtype": "CLIENTCREDENTIALS", "token_url": sink + crm.token_path, **credential}
    return {**settings, "sink": sink, "sinkcredential": credential, "config": {**settings["config"], "kind": name}}


def _asked_for(kind: "Kind") -> "ByName":
    assert kind.by_name is not None
    return kind.by_name


def _sink(title: str, crm: "ByName", domain: str | None) -> str:
    """The URL of the API: of a name, a host or a URL that the user gives."""
    if not crm.domain:
        if domain is not None and "://" not in domain:
            raise UsageError(f"--domain: {title} needs none, since the key belongs to one account")
        return crm.home if domain is None else domain
    if domain is None:
        domain = _asked(crm.domain[0].upper() + crm.domain[1:], "--domain NAME")
    name = domain.strip()
    if "://" in name:
        return name.rstrip("/")
    name = name.rstrip("/")
    if _NAME.fullmatch(name):
        return crm.home.format(domain=name.lower())
    if _HOST.fullmatch(name):
        return f"https://{name.lower()}"
    raise UsageError(f"--domain {name!r:.60}: give the {crm.domain}")


def _asked_credential(crm: "ByName") -> Body:
    file = "--credential FILE, or --credential - to read it from the input"
    if crm.token_path:
        client_id = _asked("Consumer key of the external client app", file)
        return {"client_id": client_id, "client_secret": _asked(_capital(crm.token), file, is_secret=True)}
    token = _asked(_capital(crm.token), file, is_secret=True)
    return {"credentialtype": "ACCESSTOKEN", "accesstoken": token}


def _asked(what: str, option: str, *, is_secret: bool = False) -> str:
    """The answer of a person at a terminal. Raises UsageError without a terminal."""
    if not is_interactive():
        raise UsageError(f"not given: {_small(what)}. Use {option}; only a terminal is asked")
    answer = ""
    while not answer:
        answer = str(typer.prompt(what, hide_input=is_secret, err=True)).strip()
    return answer


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _small(text: str) -> str:
    """With a small first letter, but for names such as API and My Domain."""
    first = text.partition(" ")[0]
    return text if first.isupper() or text.startswith("My Domain") else text[0].lower() + text[1:]


# --- what it will get


def show(api: Api, id: str, kind: "Kind", types: list[str] | None, metadata: Any) -> Any:
    """Prints what the CRM would get for a sample, and how many events of the last days name a person. Returns the
    preview."""
    crm = _asked_for(kind)
    asked = given(subscription=id, metadata=metadata, type=sample_type(types))
    with working("reading the events of the last days"):
        shown = api.post("/v1/subscriptions/preview", asked, timeout=ADD_TIMEOUT_SECONDS)
    typer.echo()
    whom = "this sample" if metadata is not None else "a sample, whose recipient your create would name"
    say(f"What {kind.title} would get for {whom}:")
    rows = [[one["method"], one["url"], one.get("name") or ""] for one in shown["requests"]]
    print_table(REQUESTS, rows, empty=f"nothing: the sample names no person. {kind.title} looks for {crm.names}")
    written = [(one.get("name") or one["url"], fields) for one in shown["requests"] if (fields := _fields(one))]
    for name, fields in written:
        typer.echo()
        if len(written) > 1:
            say(f"{_capital(name)}:")
        print_table(FIELDS, fields, empty="")
    typer.echo()
    say_wrapped(_recent(kind, shown["recent"]))
    return shown


def _fields(request: Mapping[str, Any]) -> list[list[str]]:
    """The fields of a request's body, one a row; parts of objects have dotted names."""
    if not request.get("body"):
        return []
    try:
        value = loads(request["body"].encode())
    except JSONDecodeError:
        return []
    return [[name, _shortened(text)] for name, text in _flat("", value)]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 1] + "…"


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [row for key, child in value.items() for row in _flat(f"{name}.{key}" if name else str(key), child)]
    return [(name, value if isinstance(value, str) else dumps(value).decode())]


def _recent(kind: "Kind", recent: Mapping[str, Any]) -> str:
    crm = _asked_for(kind)
    days = f"since {recent['since']}" if recent["cut"] else f"of the last {recent['days']} days"
    matched, named = recent["matched"], recent.get("named") or 0
    if not matched:
        return f"No event {days} would have come. Jobs name a person by their metadata: {crm.names}."
    others = "" if named == matched else f" The others are about people whom {kind.title} cannot look for."
    verb = "names" if named == 1 else "name"
    return f"Of {counted(matched, 'event')} {days}, {named:,} {verb} a person by metadata: {crm.names}.{others}"


def sample_type(types: list[str] | None) -> str | None:
    """The event type of the sample: a failed job if the subscription gets those, else its first type."""
    return next((type for type in types or () if type.endswith(".failed")), types[0] if types else None)


def wants_sample(kind: "Kind", metadata: Any, sample: bool | None, *, json: bool) -> tuple[bool, Any]:
    """True if a sample is to be sent, and the metadata that name its person: from the options, else from the answers of
    a person at a terminal."""
    if sample is not None or json or not is_interactive():
        return bool(sample), metadata
    crm = _asked_for(kind)
    about = f" about {clean(dumps(metadata).decode())}" if metadata is not None else ""
    question = f"Send a sample to {kind.title}{about}? It makes a real record, which says that it is a sample."
    if not typer.confirm(question, default=False, err=True):
        return False, metadata
    while metadata is None:
        try:
            metadata = read_metadata(typer.prompt(f"About whom, such as {crm.example}", err=True))
        except UsageError:
            typer.echo(f"That is no JSON object. Write it like {crm.example}", err=True)
    return True, metadata


def salesforce_definition(
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")] = Path("salesforce"),
) -> None:
    """Write the files that Salesforce's command sf installs. A subscription to Salesforce needs them in the org."""
    from relay import resources

    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already. Name a folder that does not")
    try:
        shutil.copytree(resources.salesforce_dir(), folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}") from None
    say(f"wrote {folder}: the object Job_Event__c, the field Event_Id__c of tasks, and the permission set Revor_Relay")
    say(f"next: sf project deploy start --metadata-dir {folder} --target-org ORG --wait 10")
    say("then: sf org assign permset --name Revor_Relay --on-behalf-of USER --target-org ORG")


COLUMNS = ("id", "type", "time", "subject")


def print_preview(shown: Mapping[str, Any], *, sample: bool) -> None:
    """Prints whether the subscription gets the event, the requests, and what it would have got of recent events.

    sample  the event is a sample, not a recorded one
    """
    event = shown["event"]
    say(
        f"{event['type']} ({event['id']}): {'it gets this event' if shown['matches'] else 'it does not get this event'}"
    )
    if shown.get("why"):
        say_wrapped(f"because {shown['why']}")
        if sample:
            say_wrapped("This is a sample: change its metadata with --metadata, or take a recorded event with --event")
    print_requests(shown["requests"])
    recent = shown["recent"]
    typer.echo()
    range = f"the newest {recent['seen']:,} events" if recent["cut"] else f"{recent['seen']:,} events"
    since = f"since {recent['since']}" if recent["cut"] else f"of the last {recent['days']} days"
    say(f"It would have got {recent['matched']:,} of {range} {since}.")
    if recent["examples"]:
        rows = [[event.get(name) for name in COLUMNS] for event in recent["examples"]]
        print_table(COLUMNS, rows, empty="")


def print_requests(requests: Sequence[Mapping[str, Any]]) -> None:
    """Prints requests in the order in which they would be sent. One of several says what it is for."""
    for number, request in enumerate(requests, 1):
        typer.echo()
        if request.get("name"):
            say(f"{number}. {request['name']}")
        say(f"{request['method']} {request['url']}")
        for name, value in request["headers"].items():
            say(f"{name}: {value}")
        if request["body"] is not None:
            typer.echo()
            typer.echo(_pretty(request["body"]))


def _pretty(body: str) -> str:
    """A body as it is read best: JSON indented, other text line by line, and nothing that could control a terminal."""
    try:
        return inert_json(dumps(loads(body.encode()), orjson.OPT_INDENT_2).decode())
    except JSONDecodeError:
        return "".join(one if one.isprintable() or one == "\n" else " " for one in body)
