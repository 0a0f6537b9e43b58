"""The commands and their API client against a stub server."""

import io
import json
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from relay.cli import run
from relay.cli.client import Api, ApiError, Unreachable, api
from relay.cli.events.stream import follow
from relay.cli.options import type_names
from relay.core.subscriptions.signing import signature_headers
from relay.core.subscriptions.subscription import SigningSecret
from relay.errors import RelayError, UsageError

SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


class Stub(ThreadingHTTPServer):
    """Answers each `METHOD path` with the next of its answers (status, media type, bytes) and repeats the last one.

    All paths begin with one of its own, so requests of another test to a port that was free are none of its own.
    """

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.prefix = f"/{secrets.token_hex(8)}"
        self.answers: dict[str, list[tuple[int, str, bytes]]] = {}
        self.seen: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{self.prefix}"

    def says(self, what: str, document: Any, status: int = 200) -> None:
        self.answers.setdefault(what, []).append((status, "application/json", json.dumps(document).encode()))

    def streams(self, raw: bytes, status: int = 200) -> None:
        self.answers.setdefault("GET /v1/events/stream", []).append((status, "text/event-stream", raw))


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if not self.path.startswith(f"{self.server.prefix}/"):
            self.send_error(404)
            return
        path = self.path.removeprefix(self.server.prefix)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((f"{self.command} {path}", headers, body))
        answers = self.server.answers.get(f"{self.command} {path.partition('?')[0]}", [(404, "text/plain", b"?")])
        status, media_type, raw = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("RELAY_URL", server.url + "/")
    monkeypatch.setenv("RELAY_TOKEN", "t0ken")
    monkeypatch.setattr("relay.cli.events.stream.FIRST_PAUSE_SECONDS", 0.001)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def event(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"evt_{number}", "type": "ai.revor.job.failed", "subject": "a", "time": "t", **more}


def frame(document: dict[str, Any]) -> bytes:
    return f"id: {document['id']}\nevent: x\ndata: {json.dumps(document)}\n\n".encode()


def test_client_reads_pages_and_sends_its_token(stub: Stub) -> None:
    stub.says("GET /v1/jobs", {"items": [1, 2], "next_cursor": "c"})
    stub.says("GET /v1/jobs", {"items": [3, 4], "next_cursor": "d"})
    assert Api(stub.url, "t0ken").items("/v1/jobs", {"open": True, "status": None}, 3) == [1, 2, 3]
    (first, headers, _), (second, _, _) = stub.seen
    assert first == "GET /v1/jobs?open=true&limit=3"
    assert second == "GET /v1/jobs?open=true&limit=1&cursor=c"
    assert headers["authorization"] == "Bearer t0ken"


@pytest.mark.parametrize(("status", "code"), [(404, 2), (422, 2), (401, 2), (429, 1), (503, 1)])
def test_exit_code_says_whether_a_user_can_fix_it(
    stub: Stub, status: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.says("GET /v1/groups/nope", {"code": "some_code", "detail": "It is wrong."}, status)
    assert run(["groups", "show", "nope"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_problems_become_one_line(stub: Stub) -> None:
    problem = {
        "code": "x",
        "detail": "the body is wrong",
        "errors": [{"pointer": "/id", "code": "x", "detail": "is empty"}],
    }
    stub.says("POST /v1/jobs", problem, status=422)
    with pytest.raises(ApiError, match=r"^is empty \(in id\)$"):
        Api(stub.url, None).post("/v1/jobs")
    stub.says("GET /v1/jobs", {"code": "unauthorized", "title": "Unauthorized"}, status=401)
    with pytest.raises(ApiError, match="RELAY_TOKEN"):
        Api(stub.url, None).get("/v1/jobs")
    with pytest.raises(ApiError, match="answered 404"):
        Api(stub.url, None).get("/elsewhere")
    stub.says("GET /v1/events", {"code": "x", "detail": "a\nb", "errors": 5}, status=422)
    with pytest.raises(ApiError, match=r"^a b$"):
        Api(stub.url, None).get("/v1/events")


@pytest.mark.parametrize(
    ("status", "media_type", "body"),
    [
        (200, "text/html", b"<html>"),
        (200, "application/json", b"[]"),
        (200, "application/json", b'{"items": 5}'),
        (301, "text/html", b""),
        (404, "text/html", b"<html>"),
        (404, "application/json", b'{"detail": "Not Found"}'),
        (501, "text/plain", b"Unsupported method"),
    ],
)
def test_server_that_is_no_relay_is_named(stub: Stub, status: int, media_type: str, body: bytes) -> None:
    stub.answers["GET /v1/jobs"] = [(status, media_type, body)]
    with pytest.raises(RelayError) as caught:
        Api(stub.url, None).items("/v1/jobs", {}, 10)
    assert str(caught.value).startswith(f"the server at {stub.url} ")
    assert str(caught.value).endswith("Set RELAY_URL to the address of a relay, such as http://127.0.0.1:8080")


def test_token_may_end_with_a_newline(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a key of a Kubernetes Secret does that was made from a file."""
    monkeypatch.setenv("RELAY_TOKEN", "t0ken\n")
    stub.says("GET /v1/jobs", {"items": []})
    api().get("/v1/jobs")
    assert stub.seen[-1][1]["authorization"] == "Bearer t0ken"


def test_token_with_invalid_characters_is_refused() -> None:
    with pytest.raises(UsageError, match="RELAY_TOKEN"):
        Api("http://x", "a\nb")


def test_callback_types_are_sent_as_a_list(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("POST /v1/jobs", {"id": "a", "uid": "job_1", "status": None}, status=201)
    assert run(["jobs", "add", "a", "--callback", SINK, "--callback-types", "succeeded, failed"]) == 0
    assert [json.loads(body) for _, _, body in stub.seen] == [
        {"id": "a", "callback_url": SINK, "callback_types": ["succeeded", "failed"]}
    ]
    assert run(["jobs", "add", "a", "--callback-types", "failed"]) == 2
    assert "--callback-types needs --callback" in capsys.readouterr().err


def test_short_types_are_expanded() -> None:
    assert type_names("failed, relay.test") == ["failed", "relay.test"]
    assert type_names(None) is None
    for wrong in ("", "faild", "zzz"):
        with pytest.raises(UsageError):
            type_names(wrong)


def test_stream_resumes_after_the_last_event(stub: Stub) -> None:
    stub.says("GET /v1/events", {"items": [event(0)], "ids": ["evt_0"], "next_cursor": None})
    stub.streams(b": connected\n\n" + frame(event(1)) + frame(event(2)) + b"id: evt_3\ndata: {")
    stub.streams(b'{"title": "busy"}', status=503)
    stub.streams(frame(event(3)))
    calls: list[int] = []
    found = follow(Api(stub.url, None), lambda: calls.append(1))
    assert [next(found).id for _ in range(3)] == ["evt_1", "evt_2", "evt_3"]
    found.close()
    assert calls == [1]
    streams = [headers["last-event-id"] for what, headers, _ in stub.seen if "stream" in what]
    assert streams == ["evt_0", "evt_2", "evt_2"]


def test_stream_begins_at_the_relays_id_of_a_published_event(stub: Stub) -> None:
    published = {**event(0), "id": "order 7"}
    stub.says("GET /v1/events", {"items": [published], "ids": ["evt_0"], "next_cursor": None})
    stub.streams(frame(event(1)))
    found = follow(Api(stub.url, None))
    assert next(found).id == "evt_1"
    found.close()
    assert [headers["last-event-id"] for what, headers, _ in stub.seen if "stream" in what] == ["evt_0"]


@pytest.mark.parametrize(("before", "after"), [(None, "made later"), ("old", "new")])
def test_stream_goes_on_with_the_token_that_the_next_start_of_the_relay_stored(
    stub: Stub, before: str | None, after: str
) -> None:
    stub.says("GET /v1/events", {"items": [], "ids": [], "next_cursor": None})
    stub.streams(frame(event(1)))
    stub.streams(b'{"detail": "no"}', status=401)
    stub.streams(frame(event(2)))
    stored = iter([before, after])
    found = follow(Api(stub.url, None, lambda: next(stored)))
    assert [next(found).id for _ in range(2)] == ["evt_1", "evt_2"]
    found.close()
    sent = [headers.get("authorization") for what, headers, _ in stub.seen if "stream" in what]
    assert sent == [*[before and f"Bearer {before}"] * 2, f"Bearer {after}"]


def test_refused_token_is_sent_once(stub: Stub) -> None:
    stub.says("GET /v1/jobs", {"code": "unauthorized", "detail": "no"}, 401)
    for client in (Api(stub.url, None, lambda: "stored"), Api(stub.url, "given", lambda: "stored")):
        with pytest.raises(ApiError, match="RELAY_TOKEN"):
            client.get("/v1/jobs")
    assert [headers["authorization"] for _, headers, _ in stub.seen] == ["Bearer stored", "Bearer given"]


def test_refused_stream_ends(stub: Stub) -> None:
    stub.says("GET /v1/events", {"items": [], "ids": [], "next_cursor": None})
    stub.streams(b'{"detail": "no"}', status=403)
    with pytest.raises(ApiError, match="no"):
        next(follow(Api(stub.url, None)))


def test_failed_first_connection_is_reported_at_once() -> None:
    with pytest.raises(Unreachable, match="relay serve"):
        next(follow(Api("http://127.0.0.1:9", None)))


def test_listen_forwards_the_unchanged_bytes_signed(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/signing-secret", {"secret": SECRET})
    stub.says("GET /v1/events", {"items": [], "ids": [], "next_cursor": None})
    schema = b'"dataschema": "http://relay.example/schemas/job-status.v1.json"'
    body = b'{"id":"evt_1", "type":"ai.revor.job.failed","subject":"\xc3\xa9",' + schema + b"}"
    other = b'{"id":"evt_2","type":"ai.revor.job.queued"}'
    stub.streams(b"id: evt_1\ndata: " + body + b"\n\nid: evt_2\ndata: " + other + b"\n\n")
    stub.streams(b'{"detail": "enough"}', status=403)
    stub.says("POST /hook", {}, status=204)
    assert run(["listen", "--forward-to", f"{stub.url}/hook?a=1", "--types", "failed"]) == 2
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"ready: listening to {stub.url}, signing secret {SECRET}"
    assert "ai.revor.job.failed é" in out[1]
    assert "→ 204" in out[2]
    assert len(out) == 3
    [(what, headers, sent)] = [seen for seen in stub.seen if seen[0].startswith("POST")]
    assert what == "POST /hook?a=1"
    assert sent == body
    assert headers["content-type"] == "application/cloudevents+json"
    Webhook(SECRET).verify(sent, headers)


ANSWER = {"accepted": 1, "known": 0, "items": [{"index": 0, "id": "evt_1", "known": False}], "rejected": []}


@pytest.mark.parametrize("text", ['{"id": "1"}', '[{"id": "1"}]', '\n{"id": "1"}\n', '{\n"id":\n"1"}'])
def test_events_are_published_from_a_file(
    text: str, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.json").write_text(text)
    stub.says("POST /v1/events", ANSWER, status=202)
    assert run(["events", "publish", str(tmp_path / "events.json")]) == 0
    assert capsys.readouterr().out == "published: 1, known before: 0\n"
    [(_, headers, sent)] = stub.seen
    assert (headers["content-type"], json.loads(sent)) == ("application/cloudevents-batch+json", [{"id": "1"}])


def test_many_events_are_published_in_batches_and_refused_ones_named(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = b"\n".join(b'{"id": "%d"}' % number for number in range(501))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    refused = {"index": 0, "code": "required", "detail": "attribute type is needed", "pointer": "/type"}
    stub.says("POST /v1/events", ANSWER, status=202)
    stub.says("POST /v1/events", {"accepted": 0, "known": 0, "items": [], "rejected": [refused]}, status=202)
    assert run(["events", "publish"]) == 1
    out, err = capsys.readouterr()
    assert out == "published: 1, known before: 0, refused: 1\n"
    assert err == "event 501 /type: attribute type is needed (required)\n"
    assert [len(json.loads(sent)) for _, _, sent in stub.seen] == [500, 1]


def test_listen_continues_if_the_target_is_down(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/signing-secret", {"secret": SECRET})
    stub.says("GET /v1/events", {"items": [], "ids": [], "next_cursor": None})
    stub.streams(frame(event(1)))
    stub.streams(b'{"detail": "enough"}', status=403)
    assert run(["listen", "--forward-to", "http://localhost:9", "--json"]) == 2
    out, err = capsys.readouterr()
    assert [json.loads(line).get("id") for line in out.splitlines()] == [None, "evt_1"]
    assert "not forwarded to localhost:9" in err


def test_listen_shows_what_passes_the_filters(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/signing-secret", {"secret": SECRET})
    stub.says("GET /v1/events", {"items": [], "ids": [], "next_cursor": None})
    frames = (
        b'id: evt_%d\ndata: {"id":"evt_%d","type":"a","data":{"deal":%d}}\n\n' % (n, n, 10 * n) for n in (1, 2, 3)
    )
    stub.streams(b"".join(frames))
    stub.streams(b'{"detail": "enough"}', status=403)
    filters = '[{"range": {"/data/deal": {"gt": 10}}}, {"not": {"exact": {"id": "evt_3"}}}]'
    assert run(["listen", "--filters", filters, "--json"]) == 2
    assert [json.loads(line).get("id") for line in capsys.readouterr().out.splitlines()] == [None, "evt_2"]


def test_deliveries_are_listed_one_per_line(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"id": "dlv_1", "event_type": "a.job.failed", "subject": "7", "state": "dead", "reason": "http_503"}
    stub.says("GET /v1/deliveries", {"items": [{**found, "sink": "https://a.example/"}], "next_cursor": None})
    assert run(["deliveries", "list"]) == 0
    shown = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        ["ID", "TYPE", "ABOUT", "SINK", "STATE", "NEXT", "REASON"],
        ["dlv_1", "a.job.failed", "7", "https://a.example/", "dead", "-", "http_503"],
    ]


def test_output_cannot_control_the_terminal(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/events", {"items": [event(1, subject="\x1b[2Jx")], "next_cursor": None})
    assert run(["events", "list"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def job(**more: Any) -> dict[str, Any]:
    made = {"uid": "job_1", "id": "a", "status": "queued", "outcome": None, "open": True, "sequence": 1}
    return {**made, **more}


@pytest.mark.parametrize(
    ("answers", "arguments", "code"),
    [
        ([job(open=False, outcome="succeeded", status="succeeded")], [], 0),
        ([job(open=False, outcome="failed", status="failed")], [], 1),
        ([job(), job(open=False, outcome="succeeded")], ["--until", "running"], 0),
        ([job(status="running")], ["--until", "running"], 0),
        ([job(open=False, outcome="cancelled")], ["--until", "running"], 1),
        ([job()], ["--timeout", "0"], 124),
        ([job()], ["--timeout", "0", "--until", "running"], 124),
        ([job(open=False, outcome="failed")], ["--timeout", "0"], 1),
    ],
)
def test_wait_ends_with_the_outcome(
    answers: list[dict[str, Any]], arguments: list[str], code: int, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.cli.jobs.jobs.MIN_REPEAT_SECONDS", 0.0)
    for answer in answers:
        stub.says("GET /v1/jobs/a", answer)
    stub.says("GET /v1/jobs/job_1/events", {"items": [{"type": "ai.revor.job.queued"}], "next_cursor": None})
    assert run(["jobs", "wait", "a", *arguments, "--json"]) == code


SLACK = {"id": "sub_1", "sink": "https://hooks.slack.com/…", "state": "enabled", "config": {"kind": "slack"}}
SINK = "https://hooks.slack.com/services/T/B/x"


def sample_result(*, delivered: bool = True, **attempt: Any) -> dict[str, Any]:
    attempt = {"status_code": 200, "duration_ms": 12.0, "error": None, **attempt}
    return {"delivered": delivered, "reason": "http_410: no_service" if not delivered else "ok", "attempt": attempt}


def sent(stub: Stub, what: str) -> list[Any]:
    return [json.loads(body) for seen, _, body in stub.seen if seen.partition("?")[0] == what]


def test_add_says_what_will_arrive(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("POST /v1/subscriptions", {**SLACK, "types": ["ai.revor.job.failed"]}, status=201)
    stub.says("POST /v1/subscriptions/sub_1/test", sample_result())
    assert run(["subscriptions", "add", SINK, "--metadata-keys", "deal, owner"]) == 0
    out = capsys.readouterr().out
    assert (
        "Slack gets one message for each job that failed, is overdue or was not found, create with unknown fate and "
        "finished group, and when an account, a sink or an upstream has trouble or has recovered."
    ) in out
    assert "the sample was accepted: 200 in 12 ms" in out
    assert run(["subscriptions", "add", "https://example.com/x", "--types", "failed,overdue", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["delivered"] is True
    first, second = sent(stub, "POST /v1/subscriptions")
    assert first == {"sink": SINK, "config": {"metadata_keys": ["deal", "owner"]}}
    assert second == {"sink": "https://example.com/x", "types": ["failed", "overdue"]}
    assert run(["subscriptions", "add", SINK, "--metadata-keys", " , "]) == 2


KAFKA_SUBSCRIPTION = {
    "id": "sub_1",
    "sink": "kafkas://a.example,b.example",
    "protocol": "KAFKA",
    "state": "enabled",
    "types": None,
    "protocolsettings": {"topicname": "jobs"},
    "config": {"kind": "kafka", "secret": "whsec_of_no_use"},
}


def test_pull_is_added_without_a_sink(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    pull = {**KAFKA_SUBSCRIPTION, "sink": None, "protocol": "PULL", "protocolsettings": {}, "config": {"kind": "pull"}}
    stub.says("POST /v1/subscriptions", pull, status=201)
    assert run(["subscriptions", "add", "pull", "--types", "failed", "--sample"]) == 0
    assert sent(stub, "POST /v1/subscriptions") == [{"protocol": "PULL", "types": ["failed"]}]
    assert "A program that asks gets every event of every job (`relay listen --subscription sub_1`)" in (
        capsys.readouterr().out
    )
    assert sent(stub, "POST /v1/subscriptions/sub_1/test") == []


def test_edit_to_a_sink_of_another_protocol_leaves_the_old_settings(stub: Stub) -> None:
    stub.says("GET /v1/subscriptions/sub_1", {**KAFKA_SUBSCRIPTION, "config": {"kind": "kafka", "ordering": "none"}})
    stub.says("PUT /v1/subscriptions/sub_1", KAFKA_SUBSCRIPTION)
    assert run(["subscriptions", "edit", "sub_1", "--topic", "other"]) == 0
    assert run(["subscriptions", "edit", "sub_1", "--sink", "tls://n.example", "--subject", "jobs.all"]) == 0
    first, second = sent(stub, "PUT /v1/subscriptions/sub_1")
    assert first["protocolsettings"] == {"topicname": "other"}
    assert second["protocolsettings"] == {"subject": "jobs.all"}
    assert ("protocol" in second, second["config"]) == (False, {"ordering": "none"})


def test_rejected_sample_exits_with_1_and_keeps_the_subscription(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.says("POST /v1/subscriptions", SLACK, status=201)
    stub.says("POST /v1/subscriptions/sub_1/test", sample_result(delivered=False, status_code=410))
    next_command = "sub_1 is kept: fix the receiver, then run `relay subscriptions test sub_1`"

    assert run(["subscriptions", "add", SINK]) == 1
    assert f"the sample was not accepted (http_410: no_service). {next_command}" in capsys.readouterr().out
    assert run(["subscriptions", "add", SINK, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["id"] == "sub_1"
    assert run(["subscriptions", "test", "sub_1"]) == 1
    assert next_command in capsys.readouterr().out
    assert run(["subscriptions", "add", SINK, "--no-test"]) == 0
    capsys.readouterr()

    stub.answers["POST /v1/subscriptions/sub_1/test"] = [
        (503, "application/json", b'{"code": "store", "detail": "no database"}')
    ]
    assert run(["subscriptions", "add", SINK]) == 1
    assert f"relay: no sample was sent (no database). {next_command}" in capsys.readouterr().err


def test_subscribed_url_is_refused_without_a_terminal(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("POST /v1/subscriptions", SLACK, status=200)
    for more in ([], ["--json"]):
        assert run(["subscriptions", "add", SINK, *more]) == 2
        error = capsys.readouterr().err
        assert "is already subscribed as sub_1 (enabled)" in error
        assert "Use it: `relay subscriptions test sub_1`. To add another one, give --duplicate" in error
        assert SINK not in error
    assert [seen for seen, _, _ in stub.seen] == ["POST /v1/subscriptions?reuse=true"] * 2


def test_subscription_is_added_with_every_setting(stub: Stub) -> None:
    stub.says("POST /v1/subscriptions", {"id": "sub_1", "sink": "https://a.example/", "config": {}}, status=201)
    options = [
        *("--types", "failed,overdue", "--source", "/relay", "--kind", "webhook", "--header", "X-Team: sales"),
        *("--header", "X-Tier:1", "--method", "PUT", "--ordering", "none", "--start", "earliest", "--timeout", "5"),
        *("--retry-schedule", "5s,5m", "--rate", "2", "--concurrency", "3", "--secret", SECRET),
        *("--metadata-keys", "deal,owner", "--incidents", "both", "--description", "ours", "--no-test"),
        *("--time-zone", "Europe/Paris", "--digest", "300", "--messages-per-minute", "5"),
        *("--template", '{"deal": "{{ metadata.deal }}"}', "--strict"),
        *("--content-mode", "batch", "--batch", "100,0.5"),
        *("--record", "note,task", "--attach", "deal", "--object", "Task", "--unmatched", "fail"),
        *("--api-version", "62.0", "--create-properties", "--dry-run"),
    ]
    assert run(["subscriptions", "add", "https://a.example/", *options]) == 0
    assert json.loads(stub.seen[-1][2]) == {
        "sink": "https://a.example/",
        "types": ["failed", "overdue"],
        "source": "/relay",
        "description": "ours",
        "protocolsettings": {"headers": {"X-Team": "sales", "X-Tier": "1"}, "method": "PUT"},
        "config": {
            "kind": "webhook",
            "ordering": "none",
            "start": "earliest",
            "timeout_seconds": 5.0,
            "retry_schedule": ["5s", "5m"],
            "rate_per_second": 2.0,
            "concurrency": 3,
            "secret": SECRET,
            "metadata_keys": ["deal", "owner"],
            "time_zone": "Europe/Paris",
            "digest_seconds": 300,
            "messages_per_minute": 5,
            "incidents": "both",
            "template": {"deal": "{{ metadata.deal }}"},
            "strict": True,
            "content_mode": "batch",
            "batch": {"max_events": 100, "max_seconds": 0.5},
            "record": ["note", "task"],
            "attach": "deal",
            "object": "Task",
            "unmatched": "fail",
            "api_version": "62.0",
            "create_properties": True,
            "dry_run": True,
        },
    }


def test_template_is_read_from_a_file(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("POST /v1/subscriptions", {"id": "sub_1", "sink": "https://a.example/", "config": {}}, status=201)
    file = tmp_path / "a template.json"
    file.write_text('{"n": "{{ data.n }}"}')
    assert run(["subscriptions", "add", "https://a.example/", "--no-test", "--template", str(file)]) == 0
    assert json.loads(stub.seen[-1][2])["config"] == {"template": {"n": "{{ data.n }}"}}
    file.write_text("{")
    for given, said in (
        (str(file), "is not JSON"),
        ('{"a": }', "--template is not JSON"),
        ("gone.json", "No such file"),
    ):
        assert run(["subscriptions", "add", "https://a.example/", "--template", given]) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert said in line


CREDENTIAL = {"credentialtype": "ACCESSTOKEN", "accesstoken": "an-access-token"}


@pytest.mark.parametrize("place", ["a file", "the input"])
def test_credential_comes_from_a_file_or_the_input(
    stub: Stub, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.says("POST /v1/subscriptions", {"id": "sub_1", "sink": "https://a.example/", "config": {}}, status=201)
    raw = json.dumps(CREDENTIAL).encode()
    (tmp_path / "credential.json").write_bytes(raw)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    source = str(tmp_path / "credential.json") if place == "a file" else "-"
    assert run(["subscriptions", "add", "https://a.example/", "--no-test", "--credential", source]) == 0
    assert json.loads(stub.seen[-1][2]) == {"sink": "https://a.example/", "sinkcredential": CREDENTIAL}
    assert "an-access-token" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"an access token", "is not JSON"), (b"\xff", "is not JSON")]
)
def test_file_without_a_credential_is_one_line(
    stub: Stub, tmp_path: Path, content: bytes | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "credential.json"
    if content is not None:
        path.write_bytes(content)
    assert run(["subscriptions", "add", "https://a.example/", "--credential", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "an-access-token" not in error
    assert not stub.seen


def test_token_given_instead_of_a_file_is_not_repeated(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["subscriptions", "add", "https://a.example/", "--credential", "pat-na1-an-access-token"]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), "an-access-token" in error) == (1, False)
    assert "Name a file" in error
    assert not stub.seen


def test_credential_is_removed_by_unset(stub: Stub) -> None:
    stub.says("GET /v1/subscriptions/sub_1", {**SHOWN, "sinkcredential": {"credentialtype": "ACCESSTOKEN"}})
    stub.says("PUT /v1/subscriptions/sub_1", SHOWN)
    assert run(["subscriptions", "edit", "sub_1", "--unset", "credential"]) == 0
    assert json.loads(stub.seen[-1][2])["sinkcredential"] is None


FILTERS = [{"exact": {"channel": "linkedin"}}]


def test_edit_keeps_replaces_and_removes_filters(stub: Stub) -> None:
    stub.says("GET /v1/subscriptions/sub_1", {**SHOWN, "filters": FILTERS})
    stub.says("PUT /v1/subscriptions/sub_1", SHOWN)
    for options, filters in (
        (["--types", "failed"], FILTERS),
        (["--filters", '{"exists": {"/data": true}}'], [{"exists": {"/data": True}}]),
        (["--unset", "filters"], None),
    ):
        assert run(["subscriptions", "edit", "sub_1", *options]) == 0
        assert json.loads(stub.seen[-1][2]).get("filters") == filters


SHOWN = {
    "id": "sub_1",
    "sink": "https://a.example/",
    "types": ["ai.revor.job.failed"],
    "protocolsettings": {"headers": {"X-Key": "[redacted]"}, "method": "POST"},
    "config": {"kind": "webhook", "ordering": "job", "rate_per_second": 2.0},
    "state": "enabled",
}


def test_edit_changes_only_the_given_settings(stub: Stub) -> None:
    stub.says("GET /v1/subscriptions/sub_1", SHOWN)
    stub.says("PUT /v1/subscriptions/sub_1", SHOWN)
    options = ["--types", "failed,overdue", "--unset", "rate", "--timeout", "5"]
    assert run(["subscriptions", "edit", "sub_1", *options]) == 0
    sent = json.loads(stub.seen[-1][2])
    assert sent == {
        **SHOWN,
        "types": ["failed", "overdue"],
        "config": {"kind": "webhook", "ordering": "job", "timeout_seconds": 5.0},
    }


def test_raw_request_of_a_delivery_verifies(
    stub: Stub, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    body = '{"subject":"é"}'
    signed = signature_headers((SigningSecret(value=SECRET),), message_id="evt_1", now=1e9, body=body.encode())
    request = {"method": "POST", "url": "https://a.example/…", "headers": dict(signed), "body": body}
    stub.says("GET /v1/deliveries/dlv_1/request", request)
    assert run(["deliveries", "show", "dlv_1", "--raw"]) == 0
    (tmp_path / "request.txt").write_bytes(capfdbinary.readouterr().out)
    verify = ["verify", "--now", "1000000000", str(tmp_path / "request.txt"), "--secret"]
    assert run([*verify, SECRET]) == 0
    assert run([*verify, "whsec_OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk="]) == 1
