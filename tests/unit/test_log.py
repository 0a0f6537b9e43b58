"""No secret and no recipient in a log line, wherever it stands; and every line is bounded and readable by programs."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from relay import log
from relay.log import REDACTED, redact, redact_text, redact_url

# (text, what must not be seen of it)
SECRETS = [
    ("Authorization: Bearer abc.DEF-123~x/+y==", "abc.DEF"),
    ("authorization=Digest username=hidden, response=hidden", "hidden"),
    ("sent with bearer hidden123", "hidden123"),
    ("Bearer Bearer hidden", "hidden"),
    ("Basic aGlkZGVuOmhpZGRlbg==", "aGlkZGVu"),
    ("the key sk-revor-hidden_1-x was refused", "hidden"),
    ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8"),
    ("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw=", "MfKQ9r8"),
    ("rl_Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5Zm9vYmFyYmF6cXV", "Zm9vYmFy"),
    ("https://api.example/x?access_token=hidden&b=1", "hidden"),
    ('{"access_token": "hid den", "x": 1}', "den"),
    ('{"password": "hid\\"den"}', "den"),
    ('{\\"client_secret\\": \\"hidden\\"}', "hidden"),
    ("x-api-key: hidden", "hidden"),
    ("X-Api-Key=hidden", "hidden"),
    ("apikey: hidden", "hidden"),
    ("webhook-signature: v1,hidden v1,hidden2", "hidden"),
    ("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "g0hM9SsE"),
    ("v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "g0hM9SsE"),
    ("Cookie: a=1; session=hidden", "hidden"),
    ("postgresql://relay:hid@den@db.internal:5432/relay", "hid"),
    ("postgresql+asyncpg://hidden:@db/relay", "hidden"),
    ("https://hidden@host.example/", "hidden"),
    ("POST https://hooks.slack.com/services/T0HIDDEN/B0/XX failed", "HIDDEN"),
    ("HTTPS://HOOKS.SLACK.COM:443/services/T0HIDDEN", "HIDDEN"),
    ("https://hooks.zapier.com/hooks/catch/123/hidden/", "hidden"),
    ("https://hook.eu1.make.com/hidden", "hidden"),
    ("https://hook.make.com/hidden", "hidden"),
    ("https://n8n.example.com/webhook/hidden-uuid", "hidden"),
    ("https://x.app.n8n.cloud/webhook-test/hidden", "hidden"),
    ("https://discord.com/api/webhooks/1/hidden", "hidden"),
    ("https://acme.webhook.office.com/webhookb2/hidden", "hidden"),
    ("https://api.telegram.org/bot1:hidden/send", "hidden"),
    ("https://prod.logic.azure.com/x?sp=1&sig=hidden", "hidden"),
    ("could not reach jane.doe+x@mail.example.com today", "jane"),
    ('{"address": "hidden street", "name": 1}', "hidden"),
    ('{"profile_url":"https://x.example/hidden"}', "hidden"),
    ("https://www.linkedin.com/in/hidden", "hidden"),
    ("called +1 (415) 555-0100", "555"),
    ("called +14155550100", "555"),
]
PLAIN = [
    "look",
    "job_01jv3zq3p6k8f2r5m0w9t4y7xh",
    "2026-05-20T10:00:08.000Z",
    "2026-05-20T10:00:08+00:00",
    "https://revor.ai/api/v1/outreach/jobs/42",
    "https://hooks.example.com/relay/in",
    "ai.revor.job.failed",
    "url_path",
    "status 503 after 3 attempts (15.0 s)",
    "idempotency_key",
    "v1,2",
]


@pytest.mark.parametrize(("text", "hidden"), SECRETS)
def test_secrets_in_text(text: str, hidden: str) -> None:
    shown = redact_text(text)
    assert hidden not in shown
    assert REDACTED in shown
    assert redact_text(shown) == shown
    assert hidden not in redact_text(f'before {text}\nafter "{text}"')


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_stays(text: str) -> None:
    assert redact_text(text) == text


def test_what_stays_around_a_secret() -> None:
    assert redact_text("postgresql://u:p@db:5432/relay") == f"postgresql://{REDACTED}@db:5432/relay"
    assert redact_text("POST https://hooks.slack.com/a/b 403") == f"POST https://hooks.slack.com/{REDACTED} 403"
    assert redact_text("GET /v1/jobs?token=abc&limit=5") == f"GET /v1/jobs?token={REDACTED}&limit=5"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@host.example:8443/a/b?c=d#e", f"https://host.example:8443/a/b?{REDACTED}"),
        ("https://hooks.slack.com/services/T/B/x", f"https://hooks.slack.com/{REDACTED}"),
        ("https://hook.us1.make.com/x?y=z", f"https://hook.us1.make.com/{REDACTED}?{REDACTED}"),
        ("http://127.0.0.1:9000/in", "http://127.0.0.1:9000/in"),
        ("https://host.example/to/jane@example.com", f"https://host.example/to/{REDACTED}"),
        ("https://[broken", "https://[broken"),
        ("not a url sk-revor-x", f"not a url {REDACTED}"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert redact_url(shown) == shown


@pytest.mark.parametrize(
    "key",
    [
        "Authorization",
        "x-api-key",
        "X_API_KEY",
        "access_token",
        "callback_secret",
        "webhook-signature",
        "Set-Cookie",
        "recipient",
        "address",
        "email",
        "phone",
        "profile_url",
        "recipient_name",
        "db_password",
        "work_email",
    ],
)
def test_keys_of_secrets_and_recipients(key: str) -> None:
    for value in ("hidden", ["hidden"], {"a": "hidden"}, b"hidden", 4155550100, ("hidden", 1)):
        for event in ({key: value}, {"a": {key: value}}, {"a": [{key: value}]}, {"headers": [(key, value)]}):
            line = json.dumps(redact(None, "info", dict(event)))
            assert "hidden" not in line
            assert "4155550100" not in line
    assert redact(None, "info", {key: None, "token": True}) == {key: None, "token": True}


def test_a_number_too_long_to_be_written() -> None:
    assert redact(None, "info", {"a": 10**5000, "b": 2**64}) == {"a": "<int>", "b": str(2**64)}


def test_bounds() -> None:
    deep: dict[str, Any] = {"end": "hidden"}
    for _ in range(20):
        deep = {"in": deep}
    shown = redact(
        None,
        "info",
        {"deep": deep, "list": list(range(100)), "text": "x" * 10_000, "many": {str(i): i for i in range(80)}},
    )
    assert "hidden" not in json.dumps(shown)
    assert shown["list"] == [*range(49), "… 51 more"]
    assert len(shown["text"]) <= log.MAX_TEXT_CHARS
    assert shown["text"].endswith("…[truncated]")
    assert shown["many"]["…"] == "31 more"
    assert redact(None, "info", dict(shown)) == shown


@pytest.mark.parametrize("offset", [0, 3, 10, 30, 500, 530])
def test_a_secret_at_the_cut_is_not_seen(offset: int) -> None:
    secret = "sk-revor-" + "hidden" * 20
    text = "x " * ((log.MAX_TEXT_CHARS + offset) // 2 - 20) + secret + " y" * 5000
    assert "hidden" not in redact(None, "info", {"a": text})["a"]


@pytest.mark.parametrize(
    "text",
    [
        "a@" * 2000,
        "a" * 4000 + "@",
        "token=" * 700,
        "://" * 1300,
        "+1" * 2000,
        '"address":"' * 400,
        "bearer " * 600,
        "token" + "\\" * 4000,
        'secret:"' + "\\" * 4000,
        "hook.a" * 700,
        "hook." + "a." * 2000,
        "cookie" * 700,
        "v1," * 1300,
    ],
)
def test_hostile_text_is_got_through(text: str) -> None:
    # a quadratic pattern would take minutes over these 200 kB: no clock is needed to see it
    once = redact_text(text * 50)
    assert redact_text(once) == once


def _structures(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "job", "error", "url", "headers", "detail"])
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4), st.tuples(inner, inner)
        ),
        max_leaves=8,
    )


_words = st.sampled_from(["", "a", "GET ", "(x) ", "error: ", '"', "'", "[", "{", "\n", "é ", "https://h.example/ "])
_planted = st.builds(lambda before, secret: (f"{before}{secret[0]}", secret[1]), _words, st.sampled_from(SECRETS))


@given(st.data())
def test_a_planted_secret_never_shows(data: st.DataObject) -> None:
    text, hidden = data.draw(_planted)
    # Noise that happens to spell the secret would prove nothing.
    noise = st.one_of(
        st.integers(), st.none(), st.booleans(), st.floats(), st.text(max_size=20), st.binary(max_size=9)
    ).filter(lambda value: hidden not in str(value))
    leaf = st.one_of(st.just(text), st.just(text.encode()), st.just(ValueError(text)), noise)
    event = {"event": "look", "value": data.draw(_structures(leaf)), "sure": text, text: 1}
    shown = redact(None, "info", event)
    line = log._json_line(None, "info", shown)
    assert json.dumps(hidden)[1:-1] not in line
    assert hidden not in json.dumps(json.loads(line), ensure_ascii=False)


_fragments = st.sampled_from(
    [
        "://",
        "@",
        "a",
        "a.b",
        " ",
        "token",
        "=",
        ":",
        '"',
        "\\",
        "'",
        "Bearer ",
        "basic ",
        "sk-revor-",
        "whsec_",
        "rl_",
        "v1,",
        "hooks.slack.com/",
        "/webhook/",
        "cookie",
        "signature",
        "address",
        "x" * 20,
        "+1234567890",
        "[redacted]",
        "\n",
        "&",
        "]",
        ")",
        ";",
        "/in/",
        "linkedin.com",
        ",",
    ]
)


@given(st.one_of(st.text(max_size=80), st.lists(_fragments, max_size=14).map("".join)))
@example("token=token=a")
@example("Bearer [redacted]")
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


@given(_structures(st.one_of(st.text(max_size=60), st.lists(_fragments, max_size=9).map("".join), st.integers())))
def test_redacting_an_event_twice_changes_nothing(value: Any) -> None:
    once = redact(None, "info", {"event": "x", "value": value})
    assert redact(None, "info", dict(once)) == once


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = before
    log._shows_deliveries = False
    root.setLevel(level)
    logging.getLogger("apscheduler").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    structlog.reset_defaults()


SENT = {"sink": "http://127.0.0.1/", "type": "ai.revor.job.failed", "job": "7d9f"}


@pytest.mark.usefixtures("logging_restored")
class TestConfigure:
    def test_lines_are_json(self) -> None:
        out = io.StringIO()
        log.configure(dev=False, stream=out)
        structlog.get_logger().info("look", job="job_1", api_key="hidden", at=1.5)
        structlog.get_logger().debug("not at this level")
        line = json.loads(out.getvalue())
        assert line["event"] == "look"
        assert line["level"] == "info"
        assert line["timestamp"].endswith("Z")
        assert (line["job"], line["api_key"], line["at"]) == ("job_1", REDACTED, 1.5)

    def test_what_orjson_refuses_is_written_too(self) -> None:
        out = io.StringIO()
        log.configure(dev=False, stream=out)
        structlog.get_logger().info("odd \ud800", big=1 << 80, thing=object(), nan=float("nan"), key={1: 2})
        line = json.loads(out.getvalue())
        assert line["event"] == "odd \ud800"
        assert line["big"] == str(1 << 80)

    @pytest.mark.parametrize("dev", [True, False])
    def test_libraries_and_tracebacks_are_redacted(self, dev: bool) -> None:
        out = io.StringIO()
        log.configure(dev=dev, stream=out)
        uvicorn = logging.getLogger("uvicorn.error")
        uvicorn.warning("%s - %s", "10.0.0.1", "GET /x?token=hidden")
        try:
            raise ValueError("postgresql://u:hidden@h/d for jane.hidden@example.com")
        except ValueError:
            uvicorn.exception("failed with Bearer hidden")
            structlog.get_logger().exception("failed too", sink="https://hooks.slack.com/hidden")
        structlog.get_logger().error("stack", stack_info=True)
        text = out.getvalue()
        assert "hidden" not in text
        assert text.count("ValueError") >= 2
        assert "test_libraries_and_tracebacks_are_redacted" in text
        if not dev:
            lines = [json.loads(line) for line in text.splitlines()]
            assert [line["level"] for line in lines] == ["warning", "error", "error", "error"]
            assert lines[0]["logger"] == "uvicorn.error"

    @pytest.mark.parametrize(
        ("event", "fields", "shown"),
        [
            (
                "transition",
                {"job": "7d9f", "previous": "queued", "kind": "running", "sequence": 2, "job_uid": "job_1"},
                "7d9f  queued → running",
            ),
            ("transition", {"job": "7d9f", "previous": None, "kind": "queued", "sequence": 1}, "7d9f  queued"),
            (
                "attempt",
                {**SENT, "state": "delivered", "status_code": 204},
                "7d9f  failed: 204 from http://127.0.0.1/",
            ),
            (
                "attempt",
                {**SENT, "state": "pending", "error": "timeout"},
                "7d9f  failed: not delivered to http://127.0.0.1/",
            ),
        ],
    )
    def test_dev_tells_transitions_and_deliveries_as_sentences_at_clock_times(
        self, event: str, fields: dict[str, object], shown: str
    ) -> None:
        out = io.StringIO()
        log.configure(dev=True, stream=out)
        structlog.get_logger().info(event, **fields)
        line = out.getvalue()
        assert re.match(r"\d\d:\d\d:\d\d ", line)
        assert shown in line
        assert "job_1" not in line

    @pytest.mark.parametrize(
        ("dev", "level", "expected"), [(True, "info", True), (False, "info", False), (False, "debug", True)]
    )
    def test_successful_deliveries_have_a_line_only_where_a_person_reads(
        self, dev: bool, level: str, expected: bool
    ) -> None:
        log.configure(dev=dev, level=level, stream=io.StringIO())
        assert log.shows_deliveries() is expected

    def test_a_long_traceback_keeps_its_end(self) -> None:
        def deeper(level: int) -> None:
            if level == 0:
                raise KeyError("the beginning")
            try:
                deeper(level - 1)
            except KeyError as error:
                raise KeyError(f"the reason {level}") from error

        out = io.StringIO()
        log.configure(dev=False, stream=out)
        try:
            deeper(40)
        except KeyError:
            structlog.get_logger().exception("failed")
        shown = json.loads(out.getvalue())["exception"]
        assert len(shown) <= log.MAX_TEXT_CHARS
        assert shown.startswith("…[truncated]")
        assert "the reason 40" in shown

    def test_a_stream_that_fails_shows_nothing_elsewhere(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = io.StringIO()
        log.configure(dev=False, stream=out)
        out.close()
        logging.getLogger("x").warning("a password=hidden")
        logging.getLogger("x").warning("%d", "token=hidden")
        assert capsys.readouterr() == ("", "")

    def test_levels(self) -> None:
        out = io.StringIO()
        log.configure(dev=False, level="ERROR", stream=out)
        structlog.get_logger().warning("a")
        logging.getLogger("a").warning("b")
        assert out.getvalue() == ""
        with pytest.raises(ValueError, match="'loud' is no log level"):
            log.configure(dev=False, level="loud")


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("dev", [False, True])
@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "no space left on device"), ValueError("closed")])
def test_a_line_that_can_not_be_written_is_dropped(dev: bool, error: Exception) -> None:
    """Else a full disk, or a reader that has gone, would end the delivery that is logged about."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise error

        def flush(self) -> None:
            raise error

    log.configure(dev=dev, stream=Broken())
    structlog.get_logger("relay.test").error("said", text="\ud83d")


@pytest.mark.usefixtures("logging_restored")
def test_a_line_that_an_encoding_has_no_word_for_is_dropped() -> None:
    raw = io.BytesIO()
    log.configure(dev=True, stream=io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    structlog.get_logger("relay.test").error("said", text="é")
    structlog.get_logger("relay.test").error("after")
    assert b"after" in raw.getvalue()
