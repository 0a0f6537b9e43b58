"""No text that passes redaction shows a secret or a recipient, and every result is bounded."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay import log, redaction
from relay.redaction import HOOK_HOSTS, REDACTED, is_credential, is_plain, redact, redact_text, redacted_url
from subscribers.webhook import Webhook

# (text, what must not be seen of it)
SECRETS = [
    ("Authorization: Bearer abc.DEF-123~x/+y==", "abc.DEF"),
    ("authorization=Digest username=hidden, response=hidden", "hidden"),
    ("sent with bearer hidden123", "hidden123"),
    ("Bearer Bearer hidden", "hidden"),
    ("it got Bearer token-hidden123", "hidden"),
    ("it got Bearer tokens.hidden123", "hidden"),
    ("it got Basic authentication/hidden", "hidden"),
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
    ("https://chat.googleapis.com/v1/spaces/AAA/messages?key=hidden&token=x", "hidden"),
    ("https://ntfy.sh/hidden-topic", "hidden"),
    ('{"routing_key": "hidden", "event_action": "trigger"}', "hidden"),
    ("https://prod.logic.azure.com/x?sp=1&sig=hidden", "hidden"),
    ("could not reach jane.doe+x@mail.example.com today", "jane"),
    ('{"address": "hidden street", "name": 1}', "hidden"),
    ('{"profile_url":"https://x.example/hidden"}', "hidden"),
    ("https://www.linkedin.com/in/hidden", "hidden"),
    ("called +1 (415) 555-0100", "555"),
    ("called +14155550100", "555"),
]
PLAIN = [
    *("look", "job_01jv3zq3p6k8f2r5m0w9t4y7xh", "2026-05-20T10:00:08.000Z", "2026-05-20T10:00:08+00:00"),
    *("https://revor.ai/api/v1/outreach/jobs/42", "https://hooks.example.com/relay/in", "ai.revor.job.failed"),
    *("url_path", "status 503 after 3 attempts (15.0 s)", "idempotency_key", "v1,2"),
]


@pytest.mark.parametrize(("text", "hidden"), SECRETS)
def test_secrets_in_text(text: str, hidden: str) -> None:
    shown = redact_text(text)
    assert hidden not in shown
    assert REDACTED in shown
    assert redact_text(shown) == shown
    assert hidden not in redact_text(f'before {text}\nafter "{text}"')


@pytest.mark.parametrize(("text", "hidden"), SECRETS)
def test_secret_among_plain_texts_is_noticed(text: str, hidden: str) -> None:
    assert not is_plain(["text/plain", text, "nginx/1.25"], ())
    assert not is_plain(["text/plain", f"/in/{hidden}"], [hidden])
    assert is_plain(["text/plain; charset=utf-8", "Wed, 20 May 2026 10:00:08 GMT", REDACTED], [hidden])


@pytest.mark.parametrize("host", HOOK_HOSTS)
def test_path_behind_every_host_of_hooks_is_redacted(host: str) -> None:
    assert redact_text(f"sent to {host.upper()}/hidden") == f"sent to {host.upper()}/{REDACTED}"


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_stays(text: str) -> None:
    assert redact_text(text) == text


HOOK_URLS = [
    "https://hooks.slack.com/services/T0/B0/hIdDeN",
    "https://hooks.slack-gov.com/services/T0/B0/hIdDeN",
    "https://hooks.zapier.com/hooks/catch/1/hIdDeN/",
    "https://hook.make.com/hIdDeN",
    "https://hook.eu1.make.com/hIdDeN",
    "https://hook.eu1.make.celonis.com/hIdDeN",
    "https://hook.integromat.com/hIdDeN",
    "https://x.app.n8n.cloud/webhook/hIdDeN",
    "https://n8n.example.com/webhook/hIdDeN",
    "https://n8n.example.com:8443/webhook-test/hIdDeN",
    "https://hIdDeN.pipedream.net/hIdDeN".replace("hIdDeN.", "eo1.m."),
    "https://maker.ifttt.com/trigger/x/with/key/hIdDeN",
    "https://acme.webhook.office.com/webhookb2/hIdDeN",
    "https://prod-1.westeurope.logic.azure.com/workflows/hIdDeN/triggers",
    "https://prod-1.usgovtexas.logic.azure.us/workflows/hIdDeN/triggers",
    "https://prod-1.chinaeast.logic.azure.cn/workflows/hIdDeN/triggers",
    "https://x.environment.api.powerplatform.com:443/powerautomate/hIdDeN",
    "https://x.environment.api.gov.powerplatform.microsoft.us/powerautomate/hIdDeN",
    "https://x.environment.api.appsplatform.us/powerautomate/hIdDeN",
    "https://x.environment.api.powerplatform.partner.microsoftonline.cn/powerautomate/hIdDeN",
    "https://discord.com/api/webhooks/1/hIdDeN",
    "https://discordapp.com/api/webhooks/1/hIdDeN",
    "https://chat.googleapis.com/v1/spaces/A/messages/hIdDeN",
    "https://api.telegram.org/bot1:hIdDeN/sendMessage",
    "https://ntfy.sh/hIdDeN",
]


@pytest.mark.parametrize("url", HOOK_URLS)
def test_lists_and_logs_hide_the_path_of_every_catch_hook(url: str) -> None:
    for shown in (Webhook().redacted_url(url), redact_text(url), redact_text(f'POST "{url}" failed')):
        assert "hIdDeN" not in shown
    line = json.dumps(redact(None, "info", {"event": "attempt", "sink": url, "error": f"no answer from {url}"}))
    assert "hIdDeN" not in line


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@host.example:8443/a/b?c=d#e", "https://host.example:8443/a/b?…"),
        ("https://hook.us1.make.com/x?y=z", "https://hook.us1.make.com/…"),
        ("https://n8n.example.com/webhook/x?y=z", "https://n8n.example.com/webhook/…?…"),
        ("http://127.0.0.1:9000/in", "http://127.0.0.1:9000/in"),
        ("https://host.example/webhook/", "https://host.example/webhook/"),
        ("https://host.example/webhook", "https://host.example/webhook"),
        ("https://[broken", "…"),
        ("not a url sk-revor-x", "…"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    assert redacted_url(url) == shown
    assert redacted_url(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\x1b[31m\u009b\u202e", "a\\x1b[31m\\x9b\\u202e"),
        ("\ud800", "\\ud800"),
        ("é ü 日本", "é ü 日本"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, shown: str) -> None:
    assert redaction.printable(text) == shown
    assert redaction.printable(shown) == shown


def test_sink_s_path_is_searched_for_in_its_answers() -> None:
    sink = "https://receiver.example/hooks/in/0123456789abcdef?key=hush-hush"
    assert redaction.secrets_of(sink, redacted_url(sink), ()) == (
        "/hooks/in/0123456789abcdef",
        "0123456789abcdef",
        "key=hush-hush",
        "hush-hush",
    )


@pytest.mark.parametrize(
    "key",
    [
        *("Authorization", "x-api-key", "X_API_KEY", "access_token", "callback_secret", "webhook-signature"),
        *("Set-Cookie", "recipient", "address", "email", "phone", "profile_url", "recipient_name", "db_password"),
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
    assert len(shown["text"]) <= redaction.MAX_TEXT_CHARS
    assert shown["text"].endswith("…[truncated]")
    assert shown["many"]["…"] == "31 more"
    assert redact(None, "info", dict(shown)) == shown


@pytest.mark.parametrize("offset", [0, 3, 10, 30, 500, 530])
def test_secret_at_the_cut_is_redacted(offset: int) -> None:
    secret = "sk-revor-" + "hidden" * 20
    text = "x " * ((redaction.MAX_TEXT_CHARS + offset) // 2 - 20) + secret + " y" * 5000
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
def test_hostile_text_is_redacted_quickly(text: str) -> None:
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
        *("://", "@", "a", "a.b", " ", "token", "=", ":", '"', "\\", "'", "Bearer ", "basic ", "sk-revor-", "whsec_"),
        *("rl_", "v1,", "hooks.slack.com/", "/webhook/", "cookie", "signature", "address"),
        "x" * 20,
        *("+1234567890", "[redacted]", "\n", "&", "]", ")", ";", "/in/", "linkedin.com", ","),
    ]
)


@given(st.one_of(st.text(max_size=80), st.lists(_fragments, max_size=14).map("".join)))
@example("token=token=a")
@example("Bearer [redacted]")
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


# --- our own words


OURS = (
    "a token is needed: send Authorization: Bearer <token>",
    "/config/secret: a signing secret begins with whsec_",
    "secret: a signing secret begins with whsec_",
    "there is no API token: create one with `relay tokens add NAME --scopes admin`",
    "sinkcredential.token: must be a text",
    "set RELAY_TOKEN to a token of the relay: the token is not valid",
    "/protocolsettings/headers/X-Api-Key: is not a name",
    "next: export REVOR_API_KEY=…, then `relay check`",
    "write it like postgresql://user@host/relay",
)


@pytest.mark.parametrize("text", OURS)
def test_advice_is_not_redacted(text: str) -> None:
    assert redact_text(text) == text
    assert redact(None, "info", {"event": text})["event"] == redaction.printable(text)


@pytest.mark.parametrize(
    "text",
    [
        *("token: send", "token=the", "password: ${hush-hush}", "password: $ecret", "password: …ecret99"),
        *("password: one,two", "api_key: {0123456789}", "secret: a1b2c3d4"),
        *("Authorization: Bearer abcdefgh then more", "Authorization: a-scheme-of-its-own with=values"),
        *("http://userx:passwordy@host.example/", "http://user:password9@host.example/", "Basic authenticatio"),
    ],
)
def test_values_beside_our_words_are_redacted(text: str) -> None:
    shown = redact_text(text)
    assert "[redacted]" in shown
    assert not any(
        part in shown for part in ("hush", "ecret99", "one,", "012345", "a1b2", "abcdefgh", "with=", "word9")
    )


def _sentences() -> Iterator[tuple[str, str]]:
    """Every text of the code with a space in it, but those of statements, of stand-ins and of documentation."""
    left_out = (
        "relay/store/",
        "relay/cli/demo/",
        "relay/sandbox/",
        "relay/api/asyncapi.py",
        "relay/cli/subscriptions/crm.py",
    )
    for root in ("relay", "subscribers"):
        for path in sorted(Path(root).rglob("*.py")):
            if str(path).startswith(left_out):
                continue
            tree = ast.parse(path.read_text())
            formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
            parts = {id(part) for node in formatted for part in node.values}
            parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
            for node in formatted:
                said = "".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values)
                yield f"{path}:{node.lineno}", said
            for one in ast.walk(tree):
                if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in parts:
                    yield f"{path}:{one.lineno}", one.value


@pytest.mark.verify
def test_no_sentence_of_ours_is_redacted() -> None:
    """A word of ours is never a secret: say it in other words, or teach the pattern."""
    kept = (
        "jane@example.com",  # an address that a person replaces, in help and in examples
        'Bearer realm="revor-relay"',  # a header
        "token=token_id",  # a column of a page
    )
    eaten = {
        place: redact_text(text)
        for place, text in _sentences()
        if " " in text and redact_text(text) != text and not any(one in text for one in kept)
    }
    assert eaten == {}


@pytest.mark.parametrize(
    "name", ["X-Pwd", "Passphrase", "X-Hmac", "X-Bearer", "X-JWT", "X-Session-Id", "X-CSRF", "X-Api-Key"]
)
def test_header_whose_name_says_that_it_is_a_credential(name: str) -> None:
    assert is_credential(name)


@pytest.mark.parametrize("name", ["X-Team", "Content-Type", "X-Design", "X-Bypass", "Webhook-Id"])
def test_header_that_is_no_credential(name: str) -> None:
    assert not is_credential(name)
