"""`relay subscriptions add hubspot | salesforce | pipedrive`: what it asks, sends and says."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer

from relay.cli import run
from relay.cli.client import Answer, Api, ApiError

ENDS = ["ai.revor.job.succeeded", "ai.revor.job.failed"]
LOOK_UP = {
    "name": "person\x1b[2J by e-mail", "method": "GET", "url": "https://acme.pipedrive.com/api/v2/persons/search?t={x}",
    "headers": {}, "body": None,
}  # fmt: skip
NOTE = {
    "name": "note", "method": "POST", "url": "https://acme.pipedrive.com/v1/notes", "headers": {},
    "body": '{"content":"<b>It failed</b>","person_id":"{person}","a":{"b":[1]}}',
}  # fmt: skip
RECENT = {"days": 7, "since": "2026-05-13T10:00:00.000Z", "seen": 200, "matched": 120, "named": 83, "cut": False}


class Relay:
    """Answers as a relay does, and keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, Any]] = []
        self.kind = "pipedrive"
        self.requests: list[Any] = [LOOK_UP, NOTE]
        self.recent: dict[str, Any] = RECENT
        self.tested: dict[str, Any] = {"delivered": True, "verdict": "delivered", "reason": "http_201"}
        self.status: int | None = 201
        self.refusal: ApiError | None = None
        self.config: dict[str, Any] = {}

    def send(self, method: str, path: str, *, query: Any = None, body: Any = None, **_: Any) -> Answer:
        self.sent.append((f"{method} {path}", query, body))
        if self.refusal is not None:
            raise self.refusal
        config = {"kind": self.kind, "portal": "acme.pipedrive.com", "secret": "whsec_x", **self.config}
        made = {"id": "sub_1", "state": "enabled", "sink": "https://a", "types": ENDS, "config": config}
        return Answer(status=201, document=made)

    def post(self, path: str, body: Any, **_: Any) -> Any:
        self.sent.append((f"POST {path}", None, body))
        if path.endswith("preview"):
            return {"matches": True, "event": {}, "requests": self.requests, "recent": self.recent}
        return {**self.tested, "attempt": {"status_code": self.status, "error": None, "duration_ms": 5.0}}

    @property
    def created(self) -> Any:
        return next(body for path, _, body in self.sent if path == "POST /v1/subscriptions")

    @property
    def samples(self) -> list[Any]:
        return [body for path, _, body in self.sent if path.endswith("/test")]


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Relay:
    made = Relay()
    monkeypatch.setenv("RELAY_URL", "http://relay.example")
    monkeypatch.setattr(Api, "send", lambda self, *args, **options: made.send(*args, **options))
    monkeypatch.setattr(Api, "post", lambda self, *args, **options: made.post(*args, **options))
    return made


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A terminal, on which somebody gives these answers."""
    given: list[Any] = []
    asked: list[tuple[str, bool]] = []

    def answer(question: str, **options: Any) -> Any:
        asked.append((question, options.get("hide_input", False)))
        assert options["err"], "a prompt is no output"
        answer = given.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr("relay.cli.subscriptions.crm.is_interactive", lambda: True)
    monkeypatch.setattr(typer, "prompt", answer)
    monkeypatch.setattr(typer, "confirm", answer)
    given.append(asked)
    return given


def prepared(answers: list[Any], *values: Any) -> list[tuple[str, bool]]:
    asked: list[tuple[str, bool]] = answers.pop(0)
    answers.extend(values)
    return asked


def token_file(tmp_path: Path, text: str = "a-token-of-40-characters\n") -> str:
    path = tmp_path / "credential"
    path.write_text(text)
    return str(path)


def test_a_terminal_is_asked_for_what_is_missing(
    relay: Relay, answers: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = prepared(answers, " acme ", "", " secret-token ", False)
    assert run(["subscriptions", "add", "Pipedrive", "--attach", "deal"]) == 0
    assert [(question.partition(" ")[0], hidden) for question, hidden in asked] == [
        ("Company,", False),
        ("API", True),
        ("API", True),
        ("Send", False),
    ]
    assert relay.created == {
        "sink": "https://acme.pipedrive.com",
        "sinkcredential": {"credentialtype": "ACCESSTOKEN", "accesstoken": "secret-token"},
        "config": {"kind": "pipedrive", "attach": "deal"},
    }
    assert relay.samples == []
    out, err = capsys.readouterr()
    assert "secret-token" not in out + err
    assert "whsec_x" not in out, "a CRM gets no signature"
    assert out.splitlines() == [
        "sub_1 is enabled",
        "account: acme.pipedrive.com",
        "Pipedrive gets a note for each succeeded and failed event. "
        "Events about people whom Pipedrive does not know are skipped, and counted.",
        "",
        "What Pipedrive would get for a sample, whose recipient your create would name:",
        "REQUEST\tURL\tFOR",
        "GET\thttps://acme.pipedrive.com/api/v2/persons/search?t={x}\tperson [2J by e-mail",
        "POST\thttps://acme.pipedrive.com/v1/notes\tnote",
        "",
        "FIELD\tVALUE",
        "content\t<b>It failed</b>",
        "person_id\t{person}",
        "a.b\t[1]",
        "",
        "Of 120 events of the last 7 days, 83 name a person by metadata: deal_id, lead_id, person_id, email or phone. "
        "The others are about people whom Pipedrive cannot look for.",
    ]


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("acme", "acme.my.salesforce.com"),
        ("acme--test.sandbox.my.salesforce.com", "acme--test.sandbox.my.salesforce.com"),
    ],
)
def test_salesforce_has_its_token_url_filled_in(relay: Relay, tmp_path: Path, domain: str, host: str) -> None:
    file = token_file(tmp_path, '{"client_id": "id", "client_secret": "s"}')
    assert run(["subscriptions", "add", "salesforce", "--domain", domain, "--credential", file]) == 0
    assert relay.created["sinkcredential"] == {
        "credentialtype": "CLIENTCREDENTIALS",
        "token_url": f"https://{host}/services/oauth2/token",
        "client_id": "id",
        "client_secret": "s",
    }
    whole = {"credentialtype": "REFRESHTOKEN", "refreshtoken": "r", "refreshtokenendpoint": "https://x.example/token"}
    relay.sent.clear()
    file = token_file(tmp_path, json.dumps(whole))
    assert run(["subscriptions", "add", "salesforce", "--domain", domain, "--credential", file]) == 0
    assert relay.created["sinkcredential"] == whole


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pipedrive"], "Use --domain NAME; only a terminal is asked"),
        (["pipedrive", "--domain", "acme"], "Use --credential FILE, or --credential - to read it from the input"),
        (["hubspot"], "Use --credential FILE"),
        (["salesforce", "--domain", "acme"], "Use --credential FILE"),
        (["salesforce", "--domain", "ac me"], "give the My Domain, such as acme"),
        (["pipedrive", "--domain", "-x/../y"], "give the company, such as acme"),
        (["hubspot", "--domain", "acme"], "HubSpot needs none"),
        (["https://a.example", "--domain", "acme"], "is an address already"),
        (["hubspott"], "did you mean hubspot?"),
        (["hubspot", "--kind", "slack"], "--kind slack is not hubspot"),
        (["hubspot", "--credential", "/nowhere/x"], "No such file"),
        (["hubspot", "--metadata", "[]"], "--metadata is not a JSON object"),
        (["hubspot", "--record", ","], "--record is empty"),
    ],
)
def test_without_a_terminal_what_is_missing_or_wrong_is_one_line(
    relay: Relay, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["subscriptions", "add", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), relay.sent) == ("", 1, [])
    assert said in err


@pytest.mark.parametrize("content", ["", "two words", "a-token\nanother-token", "{", "\xff", "short"])
def test_an_input_without_a_credential_is_one_line(
    relay: Relay, content: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode("latin-1"))))
    assert run(["subscriptions", "add", "hubspot", "--credential", "-"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "is not JSON" in err
    assert not content or content not in err.replace("two words", "") or len(content) < 3
    assert relay.sent == []


@pytest.mark.parametrize(
    ("tested", "status", "code", "said"),
    [
        ({"delivered": True, "verdict": "delivered", "reason": "http_201"}, 201, 0, "accepted: 201"),
        ({"delivered": True, "verdict": "delivered", "reason": "dry_run"}, None, 0, "no sample was sent: dry run"),
        (
            {"delivered": False, "verdict": "skip", "reason": "unmatched"},
            200,
            1,
            "nothing was written: the CRM has no contact whom the sample is about (unmatched). Name one: "
            "relay subscriptions test sub_1 --metadata '{\"deal_id\": 7}'",
        ),
        ({"delivered": False, "verdict": "dead", "reason": "http_400"}, 400, 1, "not accepted (http_400)"),
    ],
)
def test_a_sample_is_sent_if_asked_for(
    relay: Relay, tmp_path: Path, tested: Any, status: int, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    relay.tested, relay.status = tested, status
    base = ["subscriptions", "add", "pipedrive", "--domain", "acme", "--credential", token_file(tmp_path)]
    assert run([*base, "--sample", "--metadata", '{"deal_id": 7}']) == code
    assert relay.samples == [{"type": "ai.revor.job.failed", "metadata": {"deal_id": 7}}]
    assert said in capsys.readouterr().out


SOURCE = Path(__file__).parents[3] / "deploy" / "salesforce"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_definition_is_written_with_the_command_that_deploys_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["salesforce-definition"]) == 0
    assert files_of(tmp_path / "salesforce") == files_of(SOURCE)
    assert "sf project deploy start --metadata-dir salesforce" in capsys.readouterr().out
    (tmp_path / "salesforce" / "package.xml").write_text("mine")
    assert run(["salesforce-definition"]) == 2
    assert "salesforce exists already" in capsys.readouterr().err
    assert (tmp_path / "salesforce" / "package.xml").read_text() == "mine"
