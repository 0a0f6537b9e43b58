"""`relay doctor`: each thing that can be wrong has one line with what to do, and the support bundle names no secret."""

import asyncio
import json
import ssl
import stat
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from relay.cli import run
from relay.cli.node import doctor, probes
from relay.cli.node.checks import Finding
from relay.cli.node.probes import Place, certificates, clock_finding, place_of, seconds_of
from relay.config.settings import LOOPBACK_NETWORKS
from relay.core.access.netguard import GuardPolicy
from tests.support.certificates import self_signed
from tests.unit.cli.test_cli_check import _folder, upstream
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["_folder", "stub", "upstream"]

NOW = 1_800_000_000.0
DAY = 86_400.0
READY = {"status": "ok", "problems": [], "notes": [], "checks": {"database": "ok"}}
CONFIG = {"kind": "slack", "ordering": "job", "start": "now", "timeout_seconds": 15.0, "retry_schedule": [5.0]}
SINK = {
    "id": "sub_1",
    "sink": "http://hooks.example.com/services/T0/SECRETPATH",
    "state": "enabled",
    "types": None,
    "config": {**CONFIG, "rate_per_second": None, "concurrency": None},
    "created_at": "2026-05-20T10:00:00.000Z",
    "state_since": "2026-05-20T10:00:00.000Z",
}
WAITING = {"count": 7, "oldest_at": "2026-05-20T10:00:00.000Z"}


def relay(
    stub: Stub,
    *,
    ready: Mapping[str, Any] = READY,
    sink: Mapping[str, Any] | None = None,
    sinks: Any = None,
    waiting: Any = (),
) -> None:
    stub.says("GET /livez", {"status": "ok"})
    stub.says("GET /readyz", ready, status=200 if ready["status"] == "ok" else 503)
    stub.says("GET /v1/subscriptions", {"items": sinks or [{**SINK, **(sink or {})}], "next_cursor": None})
    for items in (waiting, ()):
        stub.says("GET /v1/deliveries", {"items": list(items), "truncated": False})
    stub.says("GET /v1/sources", {"items": [], "next_cursor": None})
    stub.says("GET /openapi.json", {"info": {"version": "1.2.3"}})


def examined(capsys: pytest.CaptureFixture[str], code: int) -> dict[str, list[tuple[str, str]]]:
    capsys.readouterr()
    assert run(["doctor", "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is (code == 0)
    found: dict[str, list[tuple[str, str]]] = {}
    for one in answer["checks"]:
        found.setdefault(one["name"], []).append((one["state"], one["detail"]))
    return found


def test_installation_that_is_well_has_no_bad_line(
    stub: Stub, upstream: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    relay(stub)
    assert run(["migrate"]) == 0
    found = examined(capsys, 0)
    assert found["relay"] == [("ok", f"ready at {stub.url}")]
    assert found["sinks"][0] == ("ok", "1 sink, none fails")
    assert found["undelivered"] == [("ok", "no deliveries")]
    assert found["database"][0][0] == "ok"
    assert found["database schema"][0][1].endswith("the newest")
    assert "free on the disk" in found["database size"][0][1]
    assert {state for lines in found.values() for state, _ in lines} <= {"ok", "skip", "warn"}
    assert run(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "STATE\tCHECK\tDETAIL"


TROUBLES = [
    (
        {"ready": {**READY, "status": "unavailable", "problems": ["the scheduler is not running"]}},
        1,
        "relay",
        "bad",
        "the scheduler",
    ),
    (
        {"ready": {**READY, "notes": ["1 create is unknown: see GET /v1/intents"]}},
        0,
        "relay",
        "warn",
        "`relay intents list`",
    ),
    (
        {"sink": {"failing_since": "2026-05-20T10:00:00.000Z", "failing_reason": "http_503"}},
        0,
        "sink",
        "warn",
        "(http_503)",
    ),
    (
        {"sink": {"state": "disabled", "state_reason": "http_410"}},
        0,
        "sink",
        "warn",
        "`relay subscriptions resume sub_1`",
    ),
    (
        {"sink": {"state": "paused", "state_reason": "its filters cannot be read: filters[0].cel: …"}},
        0,
        "sink",
        "warn",
        "`relay subscriptions resume sub_1`",
    ),
    ({"waiting": [WAITING]}, 0, "undelivered", "warn", "7 deliveries, the oldest"),
]


@pytest.mark.parametrize(("what", "code", "name", "state", "words"), TROUBLES)
def test_each_trouble_of_a_relay_is_a_line_with_what_to_do(
    stub: Stub,
    upstream: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    what: dict[str, Any],
    code: int,
    name: str,
    state: str,
    words: str,
) -> None:
    relay(stub, **what)
    lines = examined(capsys, code)[name]
    assert any(one == state and words in detail for one, detail in lines), lines


def test_relay_that_does_not_run_is_a_warning_and_its_database_is_read(
    upstream: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RELAY_URL", raising=False)
    Path("relay.yaml").write_text("server: {port: 1}\n")
    found = examined(capsys, 0)
    assert found["relay"][0][0] == "warn"
    assert "`relay serve`" in found["relay"][0][1]
    assert run(["migrate"]) == 0
    assert examined(capsys, 0)["undelivered"] == [("ok", "0 deliveries")]
    monkeypatch.setenv("RELAY_URL", "http://127.0.0.1:1")
    assert examined(capsys, 1)["relay"][0][0] == "bad"


def test_wrong_settings_and_a_refused_token_are_bad(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /livez", {"status": "ok"})
    stub.says("GET /readyz", READY)
    stub.says("GET /v1/subscriptions", {"code": "unauthorized", "detail": "the token is not valid"}, status=401)
    Path("relay.yaml").write_text("server: {port: many}\n")
    found = examined(capsys, 1)
    assert "relay.yaml:1" in found["settings"][0][1]
    assert ("bad", "set RELAY_TOKEN to a token of the relay: the token is not valid") in found["relay"]


def test_relay_elsewhere_is_asked_without_this_machines_settings(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relay(stub)
    monkeypatch.setattr(doctor, "_is_remote", lambda client: True)
    found = examined(capsys, 0)
    assert found["settings"][0][0] == "skip"
    assert "clock of the relay" in found
    assert not [name for name in found if name.startswith(("database", "key", "API token"))]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--about", "dlv_1"], "Add --bundle FILE"),
        (["--bundle", "-", "--json"], "both print on stdout"),
        (["--bundle", "there.txt"], "exists already. Give another name, or overwrite it with --force"),
        (["--config", "missing.yaml"], "there is no settings file missing.yaml"),
    ],
)
def test_wrong_options_are_refused(
    stub: Stub, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Path("there.txt").write_text("mine")
    assert run(["doctor", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert Path("there.txt").read_text() == "mine"


def test_bundle_says_what_is_inside_and_names_no_secret(
    stub: Stub, upstream: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    relay(stub, sink={"failing_since": "2026-05-20T10:00:00.000Z", "failing_reason": "http_503"})
    Path("relay.yaml").write_text(
        "server: {port: 8099}\nauth: {tokens: [{name: ci, "
        "token: t0ken-of-thirty-two-characters-abc, scopes: [admin]}]}\n"
    )
    upstream["accounts"] = "one"
    assert run(["doctor", "--bundle", "ticket.txt"]) == 0
    err = capsys.readouterr().err
    assert "wrote ticket.txt" in err
    assert "Inside: " in err
    assert stat.S_IMODE(Path("ticket.txt").stat().st_mode) == 0o600
    text = Path("ticket.txt").read_text()
    for heading in (
        "Inside: ",
        "DOCTOR",
        "SETTINGS that are not the default",
        "VERSIONS",
        "NODE",
        "SUBSCRIPTION sub_1",
    ):
        assert heading in text
    assert "server.port: 8099 (relay.yaml:1)" in text
    assert "sources.revor.accounts.default.api_key is set (REVOR_API_KEY)" in text
    assert "Of 2 connect accounts some cannot send" in text
    for secret in ("SECRETPATH", "t0ken", "sk-revor-default", "acc_0"):
        assert secret not in text
    assert run(["doctor", "--bundle", "ticket.txt", "--force"]) == 0
    capsys.readouterr()
    assert run(["doctor", "--bundle", "-"]) == 0
    assert capsys.readouterr().out.startswith("revor-relay, support bundle")


@pytest.mark.parametrize(
    "sinks",
    [
        ["https://one.example/hooks/T0", "https://one.example/hooks/T0/SECRETPATH"],
        ["https://one.example/hooks/T0/SECRETPATH", "https://one.example/hooks/T0"],
        ["https://one.example?SECRETPATH"],
        ["https://one.example#SECRETPATH"],
        ["https://SECRETPATH:SECRETPATH@one.example/hooks"],
    ],
)
def test_bundle_has_of_a_sink_its_host_only(
    stub: Stub, upstream: dict[str, str], capsys: pytest.CaptureFixture[str], sinks: list[str]
) -> None:
    failing = {"failing_since": "2026-05-20T10:00:00.000Z", "failing_reason": "http_503"}
    relay(stub, sinks=[{**SINK, **failing, "id": f"sub_{number}", "sink": sink} for number, sink in enumerate(sinks)])
    run(["doctor", "--bundle", "-"])
    text = capsys.readouterr().out
    assert text.count("https://one.example/… fails") == len(sinks)
    assert "SECRETPATH" not in text


def test_bundle_is_not_written_over_a_file_without_asking(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.txt").write_text("mine")
    for name in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{name}.isatty", lambda: True)
    asked: list[str] = []

    def confirm(text: str, default: bool) -> bool:
        asked.append(text)
        return default

    monkeypatch.setattr("typer.confirm", confirm)
    assert run(["doctor", "--bundle", "there.txt"]) == 2
    assert asked == ["there.txt exists already. Overwrite it?"]
    assert Path("there.txt").read_text() == "mine"


def test_command_of_before_prints_its_text_and_is_in_no_list(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/subscriptions/sub_1", SINK)
    stub.says("GET /v1/deliveries", {"items": [], "next_cursor": None})
    stub.says("GET /readyz", READY)
    assert run(["support", "sub_1"]) == 0
    assert "about subscription sub_1" in capsys.readouterr().out
    assert run(["--help"]) == 0
    assert "support" not in capsys.readouterr().out


# --- clocks


@pytest.mark.parametrize(
    ("skew", "exact", "state", "words"),
    [
        (0.0, False, "ok", "the same as here"),
        (5.9, False, "ok", "the same as here"),
        (5.9, True, "warning", "5.9 s ahead of"),
        (-7.0, False, "warning", "6 s behind"),
        (120.0, False, "problem", "ahead of this machine's. Set both by NTP"),
        (-7200.0, True, "problem", "2 h behind"),
    ],
)
def test_difference_of_clocks(skew: float, exact: bool, state: str, words: str) -> None:
    found = clock_finding("the database", NOW + skew, NOW, exact=exact)
    assert (found.name, found.state) == ("clock of the database", state)
    assert words in found.detail


@pytest.mark.parametrize(
    ("date", "at"), [(formatdate(NOW, usegmt=True), NOW), ("yesterday", None), (None, None), ("Mon, 99 Foo 2026", None)]
)
def test_date_headers(date: str | None, at: float | None) -> None:
    assert seconds_of(date) == at


# --- certificates


@asynccontextmanager
async def served(context: ssl.SSLContext) -> AsyncIterator[int]:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_certificates_are_read_without_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, context = self_signed(tmp_path)
    policy = GuardPolicy(allow_networks=LOOPBACK_NETWORKS)
    async with served(context) as port:
        place = Place("127.0.0.1", port, "a sink", policy)
        (found,) = await certificates([place], NOW)
        assert found.state == "problem"
        assert "not valid: self-signed certificate (a sink). Deliveries to it fail: renew it" in found.detail
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        (found,) = await certificates([place, place], time.time())
        assert found.state == "warning"
        assert found.detail.startswith("ends in ")
        (found,) = await certificates([place], time.time() - 60 * DAY)
        assert (found.name, found.state) == ("certificates", "ok")
        (found,) = await certificates([Place("127.0.0.1", port, "a sink", GuardPolicy())], NOW)
        assert found == Finding("certificate of 127.0.0.1", "warning", "not asked: its address is not public (a sink)")
    (found,) = await certificates([Place("127.0.0.1", 1, "the relay")], NOW)
    assert (found.state, found.detail) == ("warning", "not known: Connection refused (the relay)")


async def test_hosts_that_do_not_answer_bound_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(place: Place, tls: ssl.SSLContext) -> str:
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(probes, "_end_of", hangs)
    monkeypatch.setattr(probes, "ALL_SECONDS", 0.01)
    monkeypatch.setattr(probes, "MAX_HOSTS", 2)
    found = await certificates([Place(f"{n}.example", 443, "a sink") for n in range(5)], NOW)
    assert [one.detail for one in found] == ["no answer in time (a sink)"] * 2 + ["3 more hosts were not asked"]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://a.example/x", ("a.example", 443)),
        ("https://a.example:8443", ("a.example", 8443)),
        ("http://a.example", None),
        ("https://a.example:99999", None),
        (None, None),
    ],
)
def test_only_https_has_a_certificate(url: str | None, place: tuple[str, int] | None) -> None:
    found = place_of(url, "a sink")
    assert (None if found is None else (found.host, found.port)) == place
