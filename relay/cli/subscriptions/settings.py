"""The settings of a subscription as command-line options, for `relay subscriptions add` and `edit`."""

import functools
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from relay.cli.options import full_types, given, split_names
from relay.core.jsontext import loads
from relay.errors import UsageError

Body = dict[str, Any]
PARTS = ("protocolsettings", "config")
MAX_CREDENTIAL_BYTES = 65_536
MAX_JSON_BYTES = 1_048_576
_TOKEN = re.compile(r"[A-Za-z0-9][!-~]{7,}")
"""A token by itself, which is no JSON."""
KEPT = ("sinkcredential",)
"""Fields that the API keeps where a body does not have them; null removes them."""


def _headers(lines: list[str] | None) -> dict[str, str] | None:
    if not lines:
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError("--header has no colon. Write it like 'X-Team: sales'")
        headers[name.strip()] = value.strip()
    return headers


def _read(path: str, size: int) -> bytes:
    """The beginning of a file; "-" is the input, which stays open for the questions of a terminal. Raises OSError and
    ValueError."""
    if path == "-":
        return sys.stdin.buffer.read(size)
    with Path(path).open("rb") as file:
        return file.read(size)


def _credential(path: str | None) -> Any:
    """From a file, because others can read the arguments of a process."""
    if path is None:
        return None
    try:
        given = _read(path, MAX_CREDENTIAL_BYTES)
    except OSError as error:
        # It may be the token itself, so it is not repeated.
        raise UsageError(f"--credential: {error.strerror}. Name a file that has it, not the token") from None
    token = given.decode(errors="replace").strip()
    if _TOKEN.fullmatch(token):
        return {"credentialtype": "ACCESSTOKEN", "accesstoken": token}
    try:
        return loads(given)
    except ValueError:
        example = '{"credentialtype": "ACCESSTOKEN", "accesstoken": "…"}'
        raise UsageError(f"--credential {path:.200} is not JSON. Write it like {example}") from None


def _json(option: str, text: str, example: str) -> Any:
    """JSON, from the argument itself or from the file that it names. Raises UsageError."""
    inline = text.lstrip().startswith(("[", "{", '"'))
    if inline:
        body = text.encode(errors="surrogateescape")
    else:
        try:
            body = _read(text, MAX_JSON_BYTES)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "no name of a file"
            raise UsageError(f"{option} {text:.200}: {why}. It takes JSON such as {example}, or a file") from None
    try:
        return loads(body)
    except ValueError as error:
        where = "" if inline else f" {text:.200}"
        raise UsageError(f"{option}{where} is not JSON ({error}). Write it like {example}") from None


def filters_given(text: str | None) -> Any:
    """The filters of --filters; a single one may stand alone. Raises UsageError."""
    if text is None:
        return None
    found = _json("--filters", text, '[{"exact": {"channel": "linkedin"}}]')
    return [found] if isinstance(found, dict) else found


def _template(text: str | None) -> Any:
    return None if text is None else _json("--template", text, '{"deal": "{{ metadata.deal }}"}')


def _record(text: str | None) -> str | list[str] | None:
    names = split_names(text, "--record", "note,task")
    return names[0] if names is not None and len(names) == 1 else names


def _batch(text: str | None) -> Body | None:
    if text is None:
        return None
    events, _, seconds = text.partition(",")
    try:
        return {"max_events": int(events), **({"max_seconds": float(seconds)} if seconds else {})}
    except ValueError:
        raise UsageError(f"--batch {text!r:.40}: write the events and seconds like 100,5") from None


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its option, and the field of the API that it sets. `part` is "" for a field of the object itself."""

    option: str
    type: Any
    help: str
    part: str = "config"
    field: str = ""
    metavar: str | None = None
    read: Callable[[Any], Any] = lambda value: value

    @property
    def name(self) -> str:
        """The name of the field in the API."""
        return self.field or self.option

    def parameter(self) -> inspect.Parameter:
        """The parameter that Typer makes an option of."""
        option = typer.Option(None, f"--{self.option.replace('_', '-')}", metavar=self.metavar, help=self.help)
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.option, kind, default=option, annotation=self.type | None)


SETTINGS = (
    Setting("types", str, "Event types, such as failed,overdue.", part="", read=full_types),
    Setting("source", str, "Only events of this CloudEvents source.", part=""),
    Setting(
        "filters",
        str,
        "Only events that pass these filters: JSON, or a file with it. - reads it from the input.",
        part="",
        metavar="FILE-or-JSON",
        read=filters_given,
    ),
    Setting(
        "kind",
        str,
        "webhook, slack, slack_workflow, teams, discord, flat, hubspot, salesforce, pipedrive, kafka, nats, rabbitmq "
        "or pull. By default the kind that the URL is known for.",
    ),
    Setting(
        "header",
        list[str],
        "A header of each request. Can be given several times.",
        part="protocolsettings",
        field="headers",
        metavar="NAME: VALUE",
        read=_headers,
    ),
    Setting("method", str, "POST or PUT.", part="protocolsettings"),
    Setting("topic", str, "kafka: the topic. It may be a template.", part="protocolsettings", field="topicname"),
    Setting(
        "key",
        str,
        "kafka: a template of each record's key. By default the event's partitionkey.",
        part="protocolsettings",
        field="partitionkeyextractor",
    ),
    Setting(
        "sasl_mechanism",
        str,
        "kafka: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.",
        part="protocolsettings",
        field="saslmechanism",
    ),
    Setting("client_id", str, "kafka: the name of the client.", part="protocolsettings", field="clientid"),
    Setting("subject", str, "nats: the subject. It may be a template.", part="protocolsettings"),
    Setting(
        "address",
        str,
        "rabbitmq: /queues/NAME or /exchanges/NAME/ROUTING-KEY. It may be a template.",
        part="protocolsettings",
    ),
    Setting("link_name", str, "rabbitmq: the name of the connection.", part="protocolsettings", field="linkname"),
    Setting(
        "credential",
        str,
        "A file with the sink's sinkcredential as JSON, or with an access token alone. - reads it from the input.",
        part="",
        field="sinkcredential",
        metavar="FILE",
        read=_credential,
    ),
    Setting("content_mode", str, "webhook: structured, binary or batch. Brokers: structured or binary."),
    Setting(
        "batch", str, "Maximum events and seconds of a batch, such as 100,5.", metavar="EVENTS,SECONDS", read=_batch
    ),
    Setting("ordering", str, "job: in order within a job. none: in any order."),
    Setting("signature", str, "v1: with the subscription's secret. v1a: with the relay's key pair. Or both."),
    Setting("timeout", float, "Maximum seconds per attempt.", field="timeout_seconds"),
    Setting(
        "retry_schedule",
        str,
        "Pauses between attempts, such as 5s,5m,2h.",
        read=lambda text: split_names(text, "--retry-schedule", "5s,5m,2h"),
    ),
    Setting("rate", float, "Maximum deliveries per second.", field="rate_per_second"),
    Setting("handshake", str, "Whether the sink must agree first: off or required."),
    Setting("incidents", str, "Chats: collapse (incidents instead of the failures in them), both, or off."),
    Setting("concurrency", int, "Maximum deliveries at the same time."),
    Setting(
        "metadata_keys",
        str,
        "Chats: fields of a job's metadata to show, such as deal,owner.",
        read=lambda text: split_names(text, "--metadata-keys", "deal,owner"),
    ),
    Setting("time_zone", str, "Chats: the time zone of times in messages, such as Europe/Paris."),
    Setting("channel", str, "slack with a bot token: the channel to post to, such as C0123456789."),
    Setting("digest", int, "Chats: one message for what came within so many seconds.", field="digest_seconds"),
    Setting("messages_per_minute", int, "Chats: messages a minute beyond which a digest follows."),
    Setting(
        "record",
        str,
        "hubspot: properties, note or task, or several such as note,task. pipedrive: note or activity.",
        read=_record,
    ),
    Setting("attach", str, "pipedrive: what a person's record is attached to: deal, lead or person."),
    Setting("object", str, "salesforce: the object of the records, such as Job_Event__c or Task."),
    Setting("unmatched", str, "CRMs: what follows if the CRM has no such contact: skip, create or fail."),
    Setting("api_version", str, "salesforce: the version of its API, such as 62.0."),
    Setting("create_properties", bool, "hubspot: make the properties that the relay needs."),
    Setting("dry_run", bool, "Send nothing: attempts show the requests that would have been sent."),
    Setting(
        "template",
        str,
        "webhook, flat: the body of each request as JSON with Liquid, or a file with it. CRMs: fields of the record. - "
        "reads it from the input.",
        metavar="FILE|JSON",
        read=_template,
    ),
    Setting("strict", bool, "webhook, flat, brokers: do not send an event that lacks a name in the template."),
    Setting("description", str, "A description of your own.", part=""),
)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of SETTINGS to a command, in place of its parameter `settings`.

    The command gets the settings that were given, in the shape of the API. Raises UsageError for an invalid one.
    """

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        body: Body = {part: {} for part in PARTS}
        for setting in SETTINGS:
            value = setting.read(arguments.pop(setting.option))
            (body[setting.part] if setting.part else body)[setting.name] = value
        command(**arguments, settings={**body, **{part: given(body[part]) for part in PARTS}})

    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        added = [setting.parameter() for setting in SETTINGS] if parameter.name == "settings" else [parameter]
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in added]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Typer reads it
    return run


def without_empty(body: Body) -> Body:
    """The body without absent fields and empty parts."""
    return given({name: value if name not in PARTS else value or None for name, value in body.items()})


def place_of(option: str) -> tuple[str, str]:
    """The part and the field of the setting that --unset names. Raises UsageError if there is none."""
    name = option.lstrip("-").replace("-", "_")
    for setting in SETTINGS:
        if name in (setting.option, setting.name):
            return setting.part, setting.name
    known = sorted(setting.option for setting in SETTINGS)
    raise UsageError(f"--unset {option!r:.40} is not known. It takes {', '.join(known)}")
