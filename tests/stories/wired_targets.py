"""The targets of the story `wired`: every kind of sink, and which events each should get.

What a target should get is decided here from what the events say and what the sandbox knows to be true, without the
relay's filters, subscriptions and deliveries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.stories.crms import DEAL_STEP, HUBSPOT, PIPEDRIVE, SALESFORCE, UNKNOWN, Account, Crm
from tests.vendors.endpoint import Endpoint, Vendor
from tests.vendors.programs import CRM, RECEIVER
from tests.vendors.slack_web import CHANNEL, TOKEN, SlackWeb
from tests.vendors.stand_ins import VENDORS

LEAST_DEAL = 40
BOT_PATH = "/api/chat.postMessage"
BATCH_EVENTS, BATCH_SECONDS, DIGEST_SECONDS = 10, 2, 10
_ENDS = ("succeeded", "failed", "cancelled")
_TOLD_AT_ONCE = ("relay.group.finished", "relay.incident.opened", "relay.incident.closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """An event, and what is true of its job: its channel, the deal that it was created with, and whether it failed
    because its account was broken. Of other events these are None and False."""

    event: Mapping[str, Any]
    channel: str | None = None
    deal: int | None = None
    failed_on_account: bool = False

    @property
    def of_job(self) -> bool:
        """True for an event of a job."""
        return self.channel is not None

    @property
    def kind(self) -> str:
        """The last word of its type."""
        kind: str = self.event["type"].rpartition(".")[2]
        return kind

    @property
    def is_in_incident(self) -> bool:
        """True for what people are told of in an incident: failures on the broken account, and that it works again."""
        return (self.failed_on_account and self.kind == "failed") or (not self.of_job and self.kind == "recovered")


def every_job_event(truth: Truth) -> bool:
    """What a subscription gets without `types`."""
    return truth.of_job


def for_people(truth: Truth) -> bool:
    """What chats get without `types`, and without what an incident tells."""
    if truth.is_in_incident:
        return False
    if truth.of_job:
        return truth.kind in ("failed", "overdue", "not_found")
    return truth.event["type"].startswith("relay.") or truth.kind in ("needs_reconnect", "cannot_send")


def _in_digest(truth: Truth) -> bool:
    if truth.of_job:
        return truth.kind in _ENDS and not truth.is_in_incident
    return truth.event["type"] in _TOLD_AT_ONCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One subscription, and the stand-in that it sends to.

    gets      in words
    wants     whether an event should arrive
    skips     whether an event should be skipped, since the target has no such contact
    stand_in  makes it, for a number of jobs
    path      of its sink; None: made of its name
    paths     of its API; none: that of its sink
    types     None: the kind's own
    """

    name: str
    kind: str
    gets: str
    wants: Callable[[Truth], bool]
    stand_in: Callable[[int], Any]
    skips: Callable[[Truth], bool] | None = None
    path: str | None = None
    paths: tuple[str, ...] = ()
    types: tuple[str, ...] | None = None
    filters: tuple[Mapping[str, Any], ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    credential: Mapping[str, str] | None = None

    @property
    def sink_path(self) -> str:
        """The path of its sink."""
        return "/wired/" + self.name.replace(",", "").replace(" ", "-") if self.path is None else self.path

    def subscription(self, base_url: str) -> dict[str, Any]:
        """The body of `POST /v1/subscriptions`."""
        body: dict[str, Any] = {
            "sink": f"{base_url}{self.sink_path}",
            "config": {"kind": self.kind, **self.config},
            "description": self.name,
        }
        if self.types is not None:
            body["types"] = list(self.types)
        if self.filters:
            body["filters"] = list(self.filters)
        if self.credential is not None:
            body["sinkcredential"] = dict(self.credential)
        return body


def _endpoint(vendor: Vendor) -> Callable[[int], Endpoint]:
    return lambda _jobs: Endpoint(vendor)


def _webhook(mode: str, **options: Any) -> Target:
    config = {"content_mode": mode, **options}
    return Target(
        name=f"webhook, {mode}",
        kind="webhook",
        gets="all job events",
        wants=every_job_event,
        stand_in=_endpoint(RECEIVER),
        config=config,
    )


def _chat(kind: str, name: str | None = None, **more: Any) -> Target:
    given = {"gets": "what people act on", "wants": for_people, "stand_in": _endpoint(VENDORS[kind]), **more}
    return Target(name=name or kind, kind=kind, **given)


def _crm(kind: str, crm: Crm, **config: Any) -> Target:
    unknown = DEAL_STEP * (UNKNOWN + 1)
    return Target(
        name=kind,
        kind=kind,
        gets="ends of jobs, for known deals",
        wants=lambda truth: truth.kind in _ENDS and truth.of_job and truth.deal != unknown,
        skips=lambda truth: truth.kind in _ENDS and truth.of_job and truth.deal == unknown,
        stand_in=lambda jobs: Account(crm=crm, jobs=jobs),
        path="",
        paths=crm.paths,
        config=config,
        credential=crm.credential,
    )


TARGETS = (
    _webhook("structured"),
    _webhook("binary"),
    _webhook("batch", batch={"max_events": BATCH_EVENTS, "max_seconds": BATCH_SECONDS}),
    Target(
        name="webhook, filter",
        kind="webhook",
        gets="job events of LinkedIn",
        wants=lambda truth: truth.channel == "linkedin",
        stand_in=_endpoint(RECEIVER),
        filters=({"exact": {"channel": "linkedin"}},),
    ),
    Target(
        name="webhook, range",
        kind="webhook",
        gets=f"LinkedIn, deals over {LEAST_DEAL}",
        wants=lambda truth: truth.channel == "linkedin" and truth.deal is not None and truth.deal > LEAST_DEAL,
        stand_in=_endpoint(RECEIVER),
        filters=({"range": {"/data/metadata/deal": {"gt": LEAST_DEAL}}}, {"exact": {"channel": "linkedin"}}),
    ),
    Target(
        name="webhook, template",
        kind="webhook",
        gets="ends of jobs",
        wants=lambda truth: truth.of_job and truth.kind in _ENDS,
        stand_in=_endpoint(CRM),
        types=_ENDS,
        config={
            "strict": True,
            "template": {
                "properties": {"revor_status": "{{ event.status }}", "deal_id": "{{ metadata.deal }}"},
                "event": "{{ event.id }}",
            },
        },
    ),
    _chat("slack", "slack, webhook"),
    _chat(
        "slack",
        "slack, digest",
        gets="ends, groups, incidents",
        wants=_in_digest,
        types=(*_ENDS, *_TOLD_AT_ONCE),
        config={"digest_seconds": DIGEST_SECONDS},
    ),
    _chat(
        "slack",
        "slack, bot",
        stand_in=lambda _jobs: SlackWeb(),
        path=BOT_PATH,
        paths=("/api/{method}",),
        config={"channel": CHANNEL},
        credential={"credentialtype": "ACCESSTOKEN", "accesstoken": TOKEN},
    ),
    _chat("slack_workflow"),
    _chat("teams"),
    _chat("discord"),
    _chat("flat", gets="all job events", wants=every_job_event),
    _crm("pipedrive", PIPEDRIVE),
    _crm("hubspot", HUBSPOT, create_properties=True, record=["properties", "note"]),
    _crm("salesforce", SALESFORCE),
)
