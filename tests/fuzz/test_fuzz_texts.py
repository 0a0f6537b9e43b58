"""Fuzzing of texts in events and logs: Slack accepts every message, and no line reveals a secret."""

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

import orjson
from hypothesis import strategies as st
from slack_sdk.models.blocks import Block

from relay import log, redaction
from relay.core.deliveries.delivery import Response
from relay.core.events.event import Event, Hint, Origin, Repeat, from_transition, relay_event
from relay.core.jobs.job import JOB_EVENTS, Job, Observation, Problem, Transition
from relay.core.samples import sample_event
from relay.core.subscriptions.filters import known_types
from relay.core.subscriptions.subscription import Subscription
from subscribers import wording
from subscribers.base import RenderContext
from subscribers.registry import kind_named
from subscribers.slack import render as slack_blocks
from tests.support.fuzz_kit import JSON_VALUES, TEXTS, VALUES, fuzzed, whole, written

NOW = 1_779_271_208.0
KIND = kind_named("slack")
SUBSCRIPTION = Subscription(id="sub_1", sink="https://hooks.slack.com/services/T0/B0/secretpath", kind="slack")
ORIGIN = Origin(source="https://revor.ai/jobs", type_prefix="ai.revor.job", dataschema="http://x/schemas/a.json")
TYPES = (*known_types([ORIGIN]), "shop.order.paid", "x.job.failed", ".job.", "")
NAMES = sorted(
    {
        name
        for type in known_types([ORIGIN])
        for name in sample_event(type, event_id="evt_1", now=NOW, origin=ORIGIN, dataschema_base="http://x").document()[
            "data"
        ]
    }
    | {"meaning", "fix", "who", "repeat", "recipient_name", "name", "last_error", "sink", "attempts", "open_jobs"}
)
PIECES = st.one_of(
    TEXTS,
    st.sampled_from(
        (
            *("<!channel>", "<@U1>", "<https://evil.example|bank>", "&lt;", "&", "<", ">", "*b*", "_i_", "~s~", "`c`"),
            *(":tada:", "@here", "#general", "\n> quote", "&" * 4000, "<" * 3000, "*" * 3000, "\u3000", "\u2003.", "!"),
            *(
                "a@b.example",
                "https://h.example/x",
                "+14155552671",
                "\u2060",
                "e\u0301" * 900,
                "\U0001f469\u200d\U0001f4bb",
            ),
        )
    ),
)
HOSTILE = st.lists(PIECES, max_size=5).map("".join)
SENT = HOSTILE.map(whole)
DATA = st.dictionaries(
    st.sampled_from(NAMES),
    SENT | JSON_VALUES | st.dictionaries(st.sampled_from(NAMES), SENT | JSON_VALUES, max_size=4),
    max_size=6,
)
CONTEXTS = st.builds(
    RenderContext,
    account_names=st.dictionaries(st.just("default") | SENT, HOSTILE, max_size=2),
    public_url=st.none() | HOSTILE,
)


LINK = re.compile(r"\n<https?://(?:[!-%'-;=?-{}~]|&amp;)+\|Open [^<>|\n]+>\Z", re.IGNORECASE)


def check_message(event: Event, context: RenderContext) -> None:
    """Slack's limits and models accept the message, and user text cannot add markup."""
    payload = orjson.loads(KIND.render(event, SUBSCRIPTION, context).body)
    assert 1 <= len(payload["text"]) <= slack_blocks.SECTION_CHARACTERS
    blocks = Block.parse_all(payload["blocks"])
    types = [block.type for block in blocks if block]
    headed = types[0] == "header"
    assert types[headed:] == ["section", *["context"] * (len(blocks) - 1 - headed)]
    for block in blocks:
        assert block is not None
        block.validate_json()
    section, *footers = payload["blocks"][headed:]
    if headed:
        assert payload["blocks"][0]["text"]["type"] == "plain_text"
    fields = [field["text"] for field in section.get("fields", [])]
    elements = [element["text"] for footer in footers for element in footer["elements"]]
    assert len(fields) <= 10
    assert 1 <= len(footers) <= 2
    assert all(1 <= len(text) <= slack_blocks.FIELD_CHARACTERS for text in (*fields, *elements))
    said = LINK.sub("", section["text"]["text"])
    parts = [part for label, _, value in (text.partition("\n") for text in fields) for part in (label[1:-1], value)]
    for text in (payload["text"], said, *elements, *parts):
        assert not re.search(r"[<>]|&(?!(?:amp|lt|gt);)", text)
        assert not re.search(r"[@#](?=\w)|:[a-z][a-z0-9_+-]*:", text)
        assert not re.search("(?<!\u2060)[*~`]|[*~`](?!\u2060)", text.removesuffix("…"))
        assert "\n" not in text
    assert "secretpath" not in str(payload)


def printable(text: str) -> str:
    """An id that the API accepts."""
    return "".join(filter(str.isprintable, text))[:200] or "a"


@fuzzed(
    kind=st.sampled_from(JOB_EVENTS),
    words=st.fixed_dictionaries(dict.fromkeys(("id", "account", "channel", "action", "code", "message"), SENT)),
    metadata=st.dictionaries(st.sampled_from(["recipient_name", "name", "deal", "url"]) | SENT, SENT | JSON_VALUES),
    hint=st.none() | st.builds(Hint, meaning=SENT, fix=SENT, who=SENT, repeat=st.sampled_from(get_args(Repeat))),
    context=CONTEXTS,
    item=st.dictionaries(SENT, JSON_VALUES, max_size=3),
)
def test_what_a_job_says(
    kind: str,
    words: dict[str, str],
    metadata: dict[str, Any],
    hint: Hint | None,
    context: RenderContext,
    item: dict[str, Any],
) -> None:
    job = Job(
        uid="job_1", external_id=printable(words["id"]), source="revor", account=words["account"], metadata=metadata
    )
    seen = Observation(
        status=kind,
        observed_at=NOW,
        channel=words["channel"] or None,
        action=words["action"] or None,
        problem=Problem(code=words["code"], message=words["message"]),
        upstream=item,
    )
    transition = Transition(
        kind=kind, status=kind, previous_status=None, sequence=1, occurred_at=NOW, detected_at=NOW, inferred=False
    )
    check_message(from_transition("evt_1", job, transition, ORIGIN, seen=seen, hint=hint), context)


@fuzzed(type=st.sampled_from(TYPES[:-3]), data=DATA, context=CONTEXTS)
def test_what_the_relay_says(type: str, data: dict[str, Any], context: RenderContext) -> None:
    check_message(relay_event("evt_1", type, NOW, data, dataschema="http://x/s.json"), context)


@fuzzed(
    type=st.sampled_from(TYPES) | SENT,
    document=st.dictionaries(
        st.sampled_from(["data", "subject", "time", "account", "channel", "action", "status", "source", "sequence"]),
        DATA | JSON_VALUES | SENT,
    ),
    attributes=st.fixed_dictionaries(
        {"id": SENT.map(lambda text: f"evt_{text}"), "source": st.just("/relay") | SENT, "subject": st.none() | SENT}
    ),
    context=CONTEXTS,
)
def test_what_any_event_says(
    type: str, document: dict[str, Any], attributes: dict[str, Any], context: RenderContext
) -> None:
    body = orjson.dumps({"type": type, **attributes, **document})
    check_message(Event(type=type, time=NOW, recorded_at=NOW, body=body, **attributes), context)


@fuzzed(text=HOSTILE)
def test_one_line_of_text(text: str) -> None:
    assert len(wording.one_line(text, 80)) <= 80
    assert not re.search(r"[\n\r]|[^\s@]@[^\s@]", wording.without_addresses(text))
    escaped = slack_blocks.escape(text)
    shown = escaped.replace("\u2060", "").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert shown == text.replace("\u2060", "")


@fuzzed(
    status=st.none() | st.integers(100, 599),
    excerpt=st.binary(max_size=80) | st.sampled_from([b"ok", b" ok\n", b"invalid_payload", b"no_service"]),
    headers=st.lists(st.tuples(st.sampled_from(["retry-after", "date", "x"]), TEXTS), max_size=3),
    error=st.none() | st.just("timeout"),
)
def test_what_slack_answers(
    status: int | None, excerpt: bytes, headers: list[tuple[str, str]], error: str | None
) -> None:
    response = Response(
        started_at=NOW, duration_ms=1.0, status_code=status, headers=tuple(headers), excerpt=excerpt, error=error
    )
    outcome = KIND.classify(response, NOW)
    assert outcome.verdict in ("delivered", "retry", "dead", "disable")
    assert outcome.reason


# Log lines ---------------------------------------------------------------------------------------------------------

SECRET = "hIdDeN0123456789abcdef"
IN_TEXT = (
    *("Authorization: Bearer {}", "api_key={}", '{{"token": "{}"}}', "password: {}", "sk-revor-{}", "whsec_{}"),
    *("rl_{}", "https://user:{}@h.example/", "https://hooks.slack.com/services/T0/B0/{}", "secret={}&a=b", "v1,{}"),
    "cookie: a={}",
)
UNDER_A_KEY = (
    *("authorization", "Authorization", "X-Api-Key", "api_key", "token", "callback_secret", "password", "signature"),
    *("webhook-signature", "recipient", "email", "set-cookie", "encryption_key", "private-key"),
)


class Unspeakable:
    """An object whose `repr` fails."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def hide(value: Any, way: str) -> Any:
    """The secret in a place that redaction knows, beside or around this value."""
    if way in IN_TEXT:
        return {"value": value, "text": way.format(SECRET)}
    if way.startswith("pair "):
        return [value, (way.removeprefix("pair "), SECRET)]
    return {"value": value, "inner": {way: SECRET}}


LEAVES = st.one_of(
    VALUES,
    st.binary(max_size=20),
    st.builds(Unspeakable),
    st.builds(ValueError, TEXTS),
    st.sampled_from([10**5000, -(10**5000), {10**5000: 1}, {None: {1.5: b"\xff"}}, {("a", 1): set()}, "x" * 9000]),
)
WAYS = st.sampled_from([*IN_TEXT, *UNDER_A_KEY, *(f"pair {key}" for key in UNDER_A_KEY)])


@fuzzed(value=LEAVES, way=WAYS, around=st.lists(st.sampled_from(["list", "tuple", "mapping"]), max_size=6), name=TEXTS)
def test_a_log_line(value: Any, way: str, around: list[str], name: str) -> None:
    hidden = hide(value, way)
    for layer in around:
        hidden = {"list": [hidden, value], "tuple": (value, hidden), "mapping": {name: hidden, "other": value}}[layer]
    event = {"event": name, "error": ValueError(IN_TEXT[0].format(SECRET)), "hidden": hidden, **as_event(value)}
    line = log._json_line(None, "info", redaction.redact(None, "info", event))
    assert "\n" not in line
    assert isinstance(json.loads(line), dict)
    assert SECRET not in line


def as_event(value: Any) -> Mapping[str, Any]:
    """A mapping whose entries are fields of the log line."""
    return {str(key)[:9]: inner for key, inner in value.items() if key != 10**5000} if isinstance(value, dict) else {}


@fuzzed(before=TEXTS, way=st.sampled_from(IN_TEXT), after=TEXTS)
def test_text_to_keep(before: str, way: str, after: str) -> None:
    text = f"{before} {way.format(SECRET)} {after}"
    shown = redaction.redact_text(text)
    assert SECRET not in shown
    assert redaction.redact_text(shown) == shown
    assert SECRET not in redaction.redacted_url(
        f"https://user:{SECRET}@h.example/{whole(before)}?token={SECRET}#{after}"
    )
    assert written(shown)
