"""The conformance suite of every kind of sink. `test_crm_conformance.py` has more for kinds that write to CRMs."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import orjson
import pytest
from discord_webhook import DiscordEmbed, DiscordWebhook
from hypothesis import given
from hypothesis import strategies as st

from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.events.event import GROUP_FINISHED, INCIDENT_EVENTS, Event, Hint, Repeat, relay_event
from relay.core.jobs.job import JOB_EVENTS, Problem
from relay.core.subscriptions.filters import known_types
from relay.core.subscriptions.subscription import PROTOCOLS, Subscription
from subscribers import registry
from subscribers.base import Kind, RenderContext
from subscribers.teams import MAX_BODY_BYTES as TEAMS_BYTES
from tests.support.chat_texts import shown_by_discord, shown_by_markdown
from tests.support.hostile_texts import TEXTS, events_with, events_with_one_field, unseen
from tests.support.job_events import NOW, OF_SAMPLES, job_event, sample
from tests.support.scale import scaled
from tests.support.schema_check import check_event
from tests.support.slack_check import check_message
from tests.vendors.stand_ins import CRMS

TYPES = known_types([OF_SAMPLES])
CONTEXT = RenderContext(account_names={"default": "Sales"}, public_url="https://relay.example")
SINK_SECRET = "T0secret0path"
SECRETS = ("alex@example.com", "+14155552671", "415 555 2671", "linkedin.com/in/alex", "Hi Alex, saw your", "s3cr3t")
MAX_BODY_BYTES = 128 * 1024

FOR_PROGRAMS = {"webhook", "flat"}
"""They get the whole event, for programs that know what to do with it."""
WITHOUT_HTTP = PROTOCOLS.keys()
"""They have a conformance suite of their own, `test_brokers.py`."""
every_kind = pytest.mark.parametrize("kind", registry.kinds().values(), ids=registry.kinds().keys())
every_kind_of_one_request = pytest.mark.parametrize(
    "kind",
    [kind for name, kind in registry.kinds().items() if name not in CRMS.keys() | WITHOUT_HTTP],
    ids=lambda k: k.name,
)
every_wording_kind = pytest.mark.parametrize(
    "kind",
    [kind for name, kind in registry.kinds().items() if name not in FOR_PROGRAMS | CRMS.keys() | WITHOUT_HTTP],
    ids=lambda k: k.name,
)


def subscription_of(kind: Kind, sink: str = f"https://hooks.example/{SINK_SECRET}") -> Subscription:
    return Subscription(id="sub_01jvpq0000000000000000000b", sink=sink, kind=kind.name)


def check_cloudevent(request: OutboundRequest, event: Event) -> None:
    assert request.body == event.body
    assert dict(request.headers)["Content-Type"] == "application/cloudevents+json"
    assert not [name for name, _ in request.headers if name.lower().startswith("ce-")]
    check_event(request.body)


TOLD_APART = (GROUP_FINISHED, *INCIDENT_EVENTS)


def check_slack(request: OutboundRequest, event: Event) -> None:
    blocks = check_message(request.body)["blocks"]
    assert (blocks[0]["type"] == "header") == (event.type in TOLD_APART and event.source == "/relay")
    section, *footers = blocks[blocks[0]["type"] == "header" :]
    assert section["type"] == "section"
    assert {footer["type"] for footer in footers} == {"context"}


OPEN_LINK = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:[/?#][A-Za-z0-9._~:/?#@!$&*+,;=%-]*)?")


def texts_in(value: Any) -> Iterator[str]:
    """Every text of a JSON document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)


def check_teams(request: OutboundRequest, event: Event) -> None:
    assert len(request.body) <= TEAMS_BYTES < 28 * 1024
    payload = orjson.loads(request.body)
    assert payload.keys() == {"type", "attachments"}
    assert payload["type"] == "message"
    [attachment] = payload["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert card["msteams"] == {"width": "Full"}, "no entities: nobody is mentioned"
    title, *rest = card["body"]
    facts = [fact for block in rest if block["type"] == "FactSet" for fact in block["facts"]]
    texts = [title["items"][0]["text"], *(block["text"] for block in rest if block["type"] == "TextBlock")]
    texts += [text for fact in facts for text in (fact["title"], fact["value"])]
    for text in texts:
        assert text
        shown_by_markdown(text)
        assert not unseen(text, allowed="\u2060")
    for action in card.get("actions", []):
        assert action["type"] == "Action.OpenUrl"
        assert OPEN_LINK.fullmatch(action["url"])
        assert re.fullmatch(r"Open in [a-z0-9._:%-]+|Open [a-z ]+", action["title"])


DISCORD_LINK = re.compile(r"(?:^|\n)\[(?:Open in [a-z0-9.\\_:%-]+|Open [a-z ]+)\]\((https?://[^()\s]+)\)\Z")


def check_discord(request: OutboundRequest, event: Event) -> None:
    assert request.url.endswith("wait=true")
    payload = orjson.loads(request.body)
    assert payload.keys() == {"embeds", "allowed_mentions"}
    assert payload["allowed_mentions"] == {"parse": []}
    [embed] = payload["embeds"]
    written = DiscordWebhook(url=request.url, embeds=[DiscordEmbed(**embed)], allowed_mentions={"parse": []}).json
    assert written["embeds"][0].items() >= embed.items()
    fields, description = embed.get("fields", []), embed.get("description", "")
    if link := DISCORD_LINK.search(description):
        assert OPEN_LINK.fullmatch(link[1])
        description = description.removesuffix(link[0])
    assert len(fields) <= 25
    assert len(embed["title"]) <= 256
    assert len(embed.get("description", "")) <= 4096
    assert all(1 <= len(field["name"]) <= 256 and 1 <= len(field["value"]) <= 1024 for field in fields)
    assert 1 <= len(embed["footer"]["text"]) <= 2048
    counted = (embed["title"], embed.get("description", ""), embed["footer"]["text"])
    assert sum(map(len, [*counted, *(text for field in fields for text in (field["name"], field["value"]))])) <= 6000
    for text in filter(None, [embed["title"], description, *texts_in(fields)]):
        shown_by_discord(text)
    for text in (embed["title"], description, embed["footer"]["text"], *texts_in(fields)):
        assert not unseen(text, allowed="\u2060")
        assert not re.search(r"[@#](?=\w)|://", text)


FLAT_ALWAYS = {
    *("id", "type", "source", "subject", "time", "status", "previous_status", "result_status", "channel", "action"),
    *("account", "group", "sequence", "job_id", "sentence", "link", "connect_account_id", "request_id", "error_code"),
    *("error_message", "hint_meaning", "hint_fix", "hint_who", "hint_repeat"),
}


def check_flat(request: OutboundRequest, event: Event) -> None:
    fields = orjson.loads(request.body)
    assert fields.keys() >= FLAT_ALWAYS
    assert all(isinstance(value, str | int | float) for value in fields.values())
    assert all(re.fullmatch(r"\w+", name) for name in fields)
    assert all(name.startswith(("metadata_", "data_")) for name in fields.keys() - FLAT_ALWAYS)
    assert fields["sentence"]


def check_slack_workflow(request: OutboundRequest, event: Event) -> None:
    variables = orjson.loads(request.body)
    assert len(variables) <= 20, "a workflow can have no more"
    assert variables.keys() == {
        *("sentence", "what_to_do", "details", "type", "status", "job_id", "channel", "account", "group", "link"),
        *("error_code", "time", "request_id", "event_id"),
    }
    assert all(isinstance(text, str) and 1 <= len(text) <= 2000 for text in variables.values())
    link = variables.pop("link")
    assert link == "-" or OPEN_LINK.fullmatch(link)
    for text in variables.values():
        for line in text.split("\n"):
            assert not unseen(line, allowed="\u2060")
            assert not re.search(r"<(?!\u2060)|[@#](?=\w)|://|:[a-z][a-z0-9_+-]*:", line)
            assert not re.search("(?<!\u2060)[*~`]|[*~`](?!\u2060)|(?<!\\w)_(?=\\w)", line)


CHECKS: Mapping[str, Callable[[OutboundRequest, Event], None]] = {
    "webhook": check_cloudevent,
    "slack": check_slack,
    "teams": check_teams,
    "discord": check_discord,
    "flat": check_flat,
    "slack_workflow": check_slack_workflow,
}


@every_kind_of_one_request
@pytest.mark.parametrize("type", TYPES)
def test_every_type_renders_to_the_same_bytes_twice(kind: Kind, type: str) -> None:
    event, subscription = sample(type), subscription_of(kind)
    request = kind.render(event, subscription, CONTEXT)
    assert request == kind.render(event, subscription, CONTEXT)
    assert (event, subscription) == (sample(type), subscription_of(kind))
    assert request.url.removesuffix("?wait=true") == subscription.sink
    assert request.method == "POST"
    assert 0 < len(request.body) <= MAX_BODY_BYTES
    CHECKS[kind.name](request, event)
    CHECKS[kind.name](kind.render(event, subscription, RenderContext()), event)


@every_kind_of_one_request
@pytest.mark.parametrize("type", TYPES)
def test_rendered_headers_can_be_sent(kind: Kind, type: str) -> None:
    headers = kind.render(sample(type), subscription_of(kind), CONTEXT).headers
    names = [name.lower() for name, _ in headers]
    assert len(set(names)) == len(names)
    assert "content-type" in names
    for name, value in headers:
        assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
        assert re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", value)
    assert not any(name.startswith("webhook-") for name in names), "the dispatcher signs"


@every_kind_of_one_request
@pytest.mark.parametrize("body", [b"", b"ok", b"no_service", b"<html>", b"\xff\x00" * 100], ids=repr)
def test_every_status_has_an_outcome(kind: Kind, body: bytes) -> None:
    verdicts = set(get_args(Outcome.__annotations__["verdict"]))
    for status in range(100, 600):
        for headers in ((), (("Retry-After", "soon"),), (("Retry-After", "7"),)):
            response = Response(started_at=NOW, duration_ms=1, status_code=status, headers=headers, excerpt=body)
            outcome = kind.classify(response, NOW)
            assert outcome == kind.classify(response, NOW)
            assert outcome.verdict in verdicts
            assert outcome.reason
            assert outcome.retry_after_seconds is None or outcome.retry_after_seconds >= 0
            if not 200 <= status < 300:
                assert outcome.verdict != "delivered"
            if status >= 500 or 300 <= status < 400 or status in (408, 429):
                assert outcome.verdict == "retry"
            if status == 410:
                assert outcome.verdict == "disable"
            if status in (429, 503) and headers == (("Retry-After", "7"),):
                assert outcome.retry_after_seconds == 7.0


@every_kind_of_one_request
@pytest.mark.parametrize("error", ["timeout", "dns", "connect", "tls", "refused", "protocol", "read", "cancelled"])
def test_missing_response_is_retried(kind: Kind, error: str) -> None:
    for status in (None, 200):
        response = Response(started_at=NOW, duration_ms=1, status_code=status, excerpt=b"ok", error=error)
        assert kind.classify(response, NOW).verdict == "retry"


@every_kind
@pytest.mark.parametrize(
    "host",
    ["hooks.slack.com", "hooks.zapier.com", "hook.eu1.make.com", "x.app.n8n.cloud", "discord.com", "x.logic.azure.com"],
)
def test_credential_path_is_hidden(kind: Kind, host: str) -> None:
    shown = kind.redacted_url(f"https://user:{SINK_SECRET}@{host}/{SINK_SECRET}?key={SINK_SECRET}#{SINK_SECRET}")
    assert SINK_SECRET not in shown
    assert host in shown


@every_kind
@given(url=st.text(max_size=60).map(lambda text: "https://x.example/" + text) | st.text(max_size=60))
def test_query_is_hidden_in_any_url(kind: Kind, url: str) -> None:
    shown = kind.redacted_url(f"{url}?key={SINK_SECRET}")
    assert "key=" not in shown or "#" in url or "?" in url
    assert SINK_SECRET not in shown


@every_wording_kind
@pytest.mark.parametrize("job_kind", JOB_EVENTS)
def test_only_the_name_given_by_the_user_is_shown(kind: Kind, job_kind: str) -> None:
    event = job_event(
        job_kind,
        metadata={
            "name": "alex@example.com",
            "email": "alex@example.com",
            "phone": "+14155552671",
            "profile_url": "https://www.linkedin.com/in/alex",
            "token": "s3cr3t",
            "recipient": {"name": "alex@example.com"},
        },
        upstream={
            "id": "1",
            "recipient": {"address": "alex@example.com", "phone": "+14155552671"},
            "profile_url": "https://www.linkedin.com/in/alex",
            "content": {"text": "Hi Alex, saw your work"},
        },
        problem=Problem(code="x", message="no mailbox alex@example.com"),
        hint=Hint(
            meaning="alex@example.com, +1 415 555 2671, (415) 555-2671, https://linkedin.com/in/alex do not answer",
            fix="Write to alex@example.com",
            who="alex@example.com",
            repeat="safe",
        ),
    )
    request = kind.render(event, subscription_of(kind), CONTEXT)
    shown = (request.body + repr(request.headers).encode()).decode()
    assert [secret for secret in (*SECRETS, SINK_SECRET, "555-2671") if secret in shown] == []


FRAGMENTS = (
    *("<!channel>", "<!here|x>", "<@U123>", "<https://evil.example|bank>", "&", "&amp;", "&lt;", "<", ">", "*b*"),
    *("_i_", "~s~", "```", "`", ":tada:", "@here", "@everyone", "#general", "\n", "\r\n>quote", "\x00", "\u202e"),
    *("\u2028", "\ud800", "\U000e0041", "👩‍💻", "ß" * 100, "&" * 3500, "x" * 4000, " ", "‏", "\u2060"),
    "alex@example.com",
)
hostile = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=20), max_size=6).map("".join)


def sendable(text: str) -> str:
    """Any JSON value without lone surrogates: upstream responses are parsed from UTF-8."""
    return text.encode("utf-8", "ignore").decode()


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | hostile.map(sendable), lambda inner: st.lists(inner, max_size=3)
)
attribute_texts = st.fixed_dictionaries(
    {name: hostile.map(sendable) for name in ("job_id", "account", "channel", "action", "request_id", "status")}
).map(
    lambda texts: {
        **texts,
        "job_id": "".join(filter(str.isprintable, texts["job_id"]))[:200] or "1",
        "status": texts["status"] or "paused",
    }
)


@every_wording_kind
@given(
    job_kind=st.sampled_from(JOB_EVENTS),
    texts=attribute_texts,
    name=hostile.map(sendable),
    hint=st.builds(
        Hint,
        meaning=hostile.map(sendable),
        fix=hostile.map(sendable),
        who=hostile.map(sendable),
        repeat=st.sampled_from(get_args(Repeat)),
    ),
)
def test_no_text_of_a_job_breaks_the_message(
    kind: Kind, job_kind: str, texts: dict[str, str], name: str, hint: Hint
) -> None:
    metadata = {"recipient_name": name[:5000], name[:500]: name[:5000], "url": f"https://x.example/{name}"}
    status = texts["status"] if job_kind == "status_unknown" else None
    event = job_event(job_kind, metadata=metadata, hint=hint, **{**texts, "status": status})
    request = kind.render(event, subscription_of(kind), RenderContext(account_names={texts["account"]: name}))
    assert len(request.body) <= MAX_BODY_BYTES
    CHECKS[kind.name](request, event)


@every_wording_kind
@given(
    type=st.sampled_from([type for type in TYPES if ".job." not in type]) | st.just("relay.unheard"),
    data=st.dictionaries(
        st.sampled_from(
            (
                *("source", "account", "since", "reason", "message", "open_jobs", "subscription", "sink", "delivery"),
                *("event_type", "attempts", "last_error", "hint", "metadata", "request_id", "job"),
                *("name", "status", "channel", "group", "counts", "failures", "skipped", "missing", "round", "summary"),
                *("incident", "kind", "what", "who", "fix", "repeat", "code", "failed", "likely", "closed_because"),
                *("connect_account_id", "connect_account_name", "first_failure_at", "last_failure_at", "account_id"),
            )
        ),
        values,
    ),
)
def test_no_text_of_an_event_about_no_job_breaks_the_message(kind: Kind, type: str, data: dict[str, Any]) -> None:
    event = relay_event("evt_1", type, NOW, data, dataschema="http://x/schemas/relay-test.v1.json")
    request = kind.render(event, subscription_of(kind), CONTEXT)
    CHECKS[kind.name](request, event)


@every_wording_kind
@pytest.mark.parametrize("data", ["null", "[]", '"text"', "7", '{"hint":[],"metadata":7,"open_jobs":{}}'])
def test_data_of_any_shape_can_be_rendered(kind: Kind, data: str) -> None:
    for type in (*TYPES, "shop.order.paid"):
        source = "/relay" if type.startswith("relay.") else "/shop"
        body = f'{{"id":"evt_1","source":"{source}","type":"{type}","data":{data}}}'.encode()
        event = Event(id="evt_1", source=source, type=type, subject=None, time=NOW, recorded_at=NOW, body=body)
        request = kind.render(event, subscription_of(kind), CONTEXT)
        CHECKS[kind.name](request, event)


@pytest.mark.verify
@every_wording_kind
def test_no_hostile_text_in_a_field_breaks_the_message(kind: Kind) -> None:
    subscription = subscription_of(kind)
    assert len(TEXTS) >= 500
    for turn, text in enumerate(TEXTS):
        context = RenderContext(account_names={text: text, "emea": text}, public_url="https://relay.example")
        for event in events_with(text, part=turn, parts=scaled(28, 1)):
            CHECKS[kind.name](kind.render(event, subscription, context), event)
    for _, event in events_with_one_field():
        CHECKS[kind.name](kind.render(event, subscription, CONTEXT), event)
