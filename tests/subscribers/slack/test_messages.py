"""Every Slack message as people read it, and every hint in a sentence, compared with two reviewed files.

`UPDATE_MESSAGES=1 pytest tests/subscribers/slack/test_messages.py` writes them anew; read the
difference before you commit it.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.core import relay_events
from relay.core.events.event import Event, relay_event
from relay.core.jobs.job import JOB_EVENTS, POLL, Problem
from relay.core.samples import sample_event
from relay.core.subscriptions.filters import known_types
from relay.core.subscriptions.subscription import Subscription
from relay.sources.definition import load_definition
from subscribers import registry
from subscribers.base import RenderContext
from tests.support.job_events import JOB_ID, NOW, group_made, incident_made, origin_of
from tests.support.job_events import job_event as made

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MESSAGES = FIXTURES / "slack-messages.txt"
HINTS = FIXTURES / "hints.txt"
REVOR = load_definition("revor")
CONTEXT = RenderContext(
    public_url="https://relay.example",
    search_keys=("deal",),
    explain=lambda source, code: REVOR.hint_for(Problem(code=code, message="") if code else None, "failed"),
)
SUBSCRIPTION = Subscription(id="sub_1", sink="https://hooks.slack.com/services/T0/B0/secret", kind="slack")
METADATA = {
    "recipient_name": "Alex",
    "email": "alex@example.com",
    "phone": "+1 415 555 2671",
    "deal": "Example Ltd, renewal",
    "deal_id": "12345678901",
    "owner": "Kim",
    "amount": 12000,
    "forecast": True,
    "lines": [1, 2],
    "stage": "proposal",
    "region": "the sixth scalar",
    "url": "https://crm.example/deals/42?tab=activity&view=all",
}
CREDITS = Problem(code="insufficient_credits", message="", retryable=False)
WORKER = Problem(code="external_api_worker_unavailable", message="", retryable=True)
RECONNECT = Problem(code="connect_account_reconnect_required", message="", retryable=False)


def job_event(
    kind: str,
    *,
    problem: Problem | None = None,
    channel: str = "linkedin",
    metadata: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    inferred: bool = False,
    **more: Any,
) -> Event:
    upstream = {"recipient": {"name": "Robin Recipient", "address": "robin@example.com"}, "result": result}
    return made(
        kind,
        problem=problem,
        channel=channel,
        metadata=METADATA if metadata is None else metadata,
        result_status=None if result is None else result["status"],
        upstream={"id": JOB_ID, "content": {"text": "Hello Robin"}, **upstream},
        request_id="req_5f1c",
        hint=None if inferred else REVOR.hint_for(problem, kind, channel=channel),
        inferred=inferred,
        unseen=kind in ("overdue", "not_found"),
        previous="running",
        sequence=3,
        **more,
    )


def about_the_relay(type: str, data: dict[str, Any]) -> Event:
    return relay_event("evt_1", type, NOW, data, dataschema="http://x/schemas/a.json")


def samples() -> Iterator[tuple[str, Event]]:
    """A sample of each event type."""
    for type in known_types([origin_of()]):
        yield (
            f"sample of {type}",
            sample_event(
                type,
                event_id="evt_1",
                now=NOW,
                origin=origin_of(title="Revor"),
                dataschema_base="http://x",
                source="revor",
            ),
        )


def stories() -> Iterator[tuple[str, Event]]:
    """Events with several wordings, or that show or hide parts of the job."""
    accepted = {"status": "accepted", "account_id": "acc_17"}
    yield "a job that failed: metadata, a link", job_event("failed", problem=RECONNECT)
    yield "a failure that passes by itself", job_event("failed", problem=WORKER, channel="email", metadata={})
    yield "a failure without a reason", job_event("failed", metadata={})
    yield "a retry that was seen", job_event("retrying", status="queued", problem=WORKER, metadata={"deal": 42})
    yield "a retry that is over", job_event("retrying", status="queued", inferred=True, metadata={})
    yield "another account of the relay", job_event("failed", problem=CREDITS, account="emea", metadata={})
    yield "accepted, with the account that sent it", job_event("succeeded", result=accepted, metadata={"deal": 42})
    like = {"action": "outreach.linkedin.post_like", "metadata": {}}
    yield "a post-like", job_event("succeeded", result=accepted, **like)
    yield "a post-like that was skipped", job_event("succeeded", result={**accepted, "status": "skipped"}, **like)
    yield (
        "hostile metadata",
        job_event(
            "failed",
            problem=RECONNECT,
            metadata={
                "deal": "<!channel> & *Acme* <now>",
                "<@U1>": ":tada: @here",
                "token": "s3cr3t",
                "url": "https://crm.example/a|b>c",
            },
        ),
    )
    yield (
        "a key that was refused",
        about_the_relay(
            "relay.source.unauthorized",
            relay_events.source_trouble_data(
                source="revor",
                account="default",
                since=NOW,
                reason="Revor refuses the API key of account default: polling waits for one that works",
                code="api_key_expired",
                open_jobs=2,
                hint=REVOR.hint_for(Problem(code="api_key_expired", message=""), POLL),
            ),
        ),
    )


def troubles() -> Iterator[tuple[str, Event]]:
    """Incidents and groups of every sort, and events that name a person in another way."""
    sink = {"subscription": "sub_9", "sink": "https://crm.example/…", "likely": None, "channel": None, "hint": None}
    sink |= dict.fromkeys(("source", "account", "connect_account_id", "connect_account_name"))
    nameless = dict.fromkeys(("connect_account_id", "connect_account_name"))
    yield "an incident whose sending account is not known", incident_made(**nameless)
    yield "an incident of creates", incident_made(kind="creates", code="no_answer", hint=None, likely=None)
    yield "an incident of a sink", incident_made(kind="sink", code="http_503", **sink)
    yield "the end of an incident of a sink", incident_made("closed", kind="sink", code="http_503", **sink)
    codes = {"connect_account_reconnect_required": 4, "insufficient_credits": 2, "other": 1, "unknown": 1}
    counts = {"succeeded": 186, "failed": 8, "cancelled": 3, "not_found": 2}
    yield "a campaign with failures of several causes", group_made(counts=counts, failures=codes, missing=1)
    yield "a campaign without failures", group_made(counts={"succeeded": 200}, failures={}, skipped=0)
    yield "a campaign whose jobs were not created", group_made(counts={"succeeded": 41}, failures={}, missing=19)
    full = {"first_name": "Ada", "last_name": "Lovelace"}
    yield "a person with a first and a last name", job_event("failed", problem=RECONNECT, metadata=full)
    yield "a job that is searched by its deal", job_event("failed", problem=RECONNECT, metadata={"deal": "Example Ltd"})


def digests() -> Iterator[tuple[str, str]]:
    """A digest of a morning, and one that is too long."""
    named = [job_event("failed", problem=RECONNECT, metadata={"name": f"Person {letter}"}) for letter in "ABCDEFG"]
    morning = [
        *named,
        job_event("overdue", metadata={"name": "Alex"}),
        group_made(failures={RECONNECT.code: 6}),
        incident_made(),
    ]
    yield "a digest of a morning", digest_shown(morning)
    many = [
        event for n in range(60) for event in (incident_made(incident=f"inc_{n}"), group_made(group=f"campaign {n}"))
    ]
    yield "the end of a digest of 120 incidents and campaigns", digest_shown(many).rpartition("\n")[2]


def digest_shown(events: list[Event]) -> str:
    return text_of(registry.kind_named("slack").render_bundle(events, SUBSCRIPTION, CONTEXT).body)


def shown(event: Event, subscription: Subscription = SUBSCRIPTION) -> str:
    """A message as text: its blocks from top to bottom, as Slack shows them."""
    return text_of(registry.kind_named("slack").render(event, subscription, CONTEXT).body)


def text_of(body: bytes) -> str:
    payload = orjson.loads(body)
    lines = []
    for block in payload["blocks"]:
        if block["type"] == "header":
            lines.append(f"# {block['text']['text']}")
        elif block["type"] == "section":
            lines.append(block["text"]["text"])
            lines += ["  " + field["text"].replace("\n", " ", 1) for field in block.get("fields", [])]
        elif block["type"] == "context":
            lines.append("  (" + " · ".join(element["text"] for element in block["elements"]) + ")")
    return "\n".join(lines).replace("\u2060", "").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def messages() -> str:
    parts = [(title, shown(event)) for title, event in (*stories(), *troubles(), *samples())]
    return "\n".join(f"== {title}\n{text}\n" for title, text in (*parts, *digests()))


def plain(event: Event) -> str:
    """Sentence, fix and advice of a message, on one line."""
    section, *rest = shown(event).split("\n")
    advice = [line.strip() for line in rest if re.match(r"  \*(Next|Whose|Sending)", line)]
    return " | ".join([section, *(re.sub(r"^\*(.*?)\*", r"\1", line) for line in advice)])


def hint_lines() -> Iterator[tuple[str, str, bool | None, str]]:
    """(kind, code, retryable, line) of every hint."""
    codes = (*REVOR.hints.codes, *REVOR.hints.patterns, "never_heard_of")
    for kind in ("failed", "retrying"):
        for code in codes:
            for retryable in (True, False, None):
                problem = Problem(code=code, message="", retryable=retryable)
                status = "queued" if kind == "retrying" else kind
                line = plain(job_event(kind, status=status, problem=problem, metadata={"name": "Alex"}))
                yield kind, code, retryable, line.replace("LinkedIn outreach to Alex ", "")
    for kind in (kind for kind in REVOR.hints.kinds if kind in JOB_EVENTS):
        yield kind, "", None, plain(job_event(kind, metadata={"name": "Alex"}))


def hint_table() -> str:
    """The lines of every hint, without duplicates where `retryable` makes no difference."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for kind, code, retryable, line in hint_lines():
        said = {True: "retryable", False: "final", None: "unsaid"}[retryable]
        groups.setdefault((kind, code, line), []).append(said)
    return "".join(
        f"{kind} {code}{'' if len(said) == 3 or not code else ' (' + ', '.join(said) + ')'}\n    {line}\n"
        for (kind, code, line), said in groups.items()
    )


@pytest.mark.parametrize(("path", "made"), [(MESSAGES, messages), (HINTS, hint_table)], ids=["messages", "hints"])
def test_messages_match_the_reviewed_files(path: Path, made: Any) -> None:
    text = made()
    if os.environ.get("UPDATE_MESSAGES"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_no_message_shows_a_recipient_or_message_text() -> None:
    text = messages()
    for private in ("Robin", "robin@", "Hello", "alex@example.com", "555", "s3cr3t"):
        assert private not in text


def test_no_message_has_a_command_for_a_shell_or_an_error_code() -> None:
    text = re.sub(r"sample_error|“on_hold”", "", messages())
    assert not re.search(
        r"\brelay [a-z]+ [a-z]+ [a-z]{3}_|\brelay (?:jobs|groups|incidents|intents|deliveries)\b", text
    )
    for line in text.split("\n"):
        of_metadata = re.match(r"  \*(?:Deal|Campaign|Sending account)", line)
        assert of_metadata or line.startswith(("==", "  (", "<")) or not re.search(r"[a-z]+_[a-z]+", line), line


def test_subscription_selects_the_metadata_shown() -> None:
    chosen = Subscription(
        id="sub_1",
        sink=SUBSCRIPTION.sink,
        kind="slack",
        options={"metadata_keys": ["email", "absent", "lines", "owner"]},
    )
    text = shown(job_event("failed", problem=RECONNECT), chosen)
    assert "*Email* alex@example.com" in text
    assert "*Owner* Kim" in text
    assert "*Deal*" not in text
    assert "Lines" not in text
    nothing = Subscription(id="sub_1", sink=SUBSCRIPTION.sink, kind="slack", options={"metadata_keys": []})
    assert "*Deal*" not in shown(job_event("failed", problem=RECONNECT), nothing)
