"""`relay jobs import` without a relay: conflicting options, retries and output."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.cli import run
from relay.cli.client import Answer, Api, ApiError, Unreachable, _refusal
from relay.cli.importing import run as import_run
from relay.cli.importing import send as import_send
from relay.cli.importing.lines import Fault
from relay.cli.importing.send import PATIENCE_SECONDS, Relay
from relay.errors import RelayError

NOBODY = "http://127.0.0.1:9"


class Scripted(Api):
    """Gives its answers in turn: an error or a document. Without answers it accepts all entries as new."""

    def __init__(self, *answers: Exception | Mapping[str, Any]) -> None:
        super().__init__(NOBODY, None)
        self.answers = list(answers)
        self.sent: list[list[str]] = []

    def send(self, method: str, path: str, **options: Any) -> Answer:  # type: ignore[override]
        jobs = options["body"]["jobs"]
        self.sent.append([job["id"] for job in jobs])
        answer = self.answers.pop(0) if self.answers else {"created": len(jobs), "existing": 0, "rejected": []}
        if isinstance(answer, Exception):
            raise answer
        return Answer(status=200, document=answer)


def refusal(status: int, retry_after: str | None = None) -> ApiError:
    return _refusal(status, b'{"detail": "not now", "code": "store"}', retry_after)


def bodies(ids: str) -> list[dict[str, Any]]:
    return [{"id": id} for id in ids]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "xml"], "'auto', 'csv', 'jsonl', 'answers'"),
        (["--metadata", "[1]"], "--metadata is not a JSON object"),
        (["--source", "a\nb"], "--source contains characters"),
        (["nope.csv"], "cannot read nope.csv: No such file"),
        (["."], "cannot read .: Is a directory"),
        (["--resume"], "--resume needs a file"),
        (["-", "--resume"], "--resume needs a file"),
        (["jobs.csv", "--resume", "--dry-run"], "cannot be used with --dry-run"),
        (["jobs.csv", "--rejects", "./jobs.csv"], "--rejects is the imported file"),
        (["jobs.csv", "--rejects", "no/folder"], "cannot write no/folder: No such file"),
        (["wrong.csv"], "did you mean account?"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELAY_URL", NOBODY)
    Path("jobs.csv").write_text("id\na\n")
    Path("wrong.csv").write_text("id,acount\na,b\n")
    assert run(["jobs", "import", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert Path("jobs.csv").read_text() == "id\na\n"


def test_missing_relay_is_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELAY_URL", NOBODY)
    file = tmp_path / "ids"
    file.write_text("a\n")
    assert run(["jobs", "import", str(file)]) == 1  # as all commands
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "`relay serve`" in err


def test_a_dry_run_without_a_relay_checks_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELAY_URL", NOBODY)
    file = tmp_path / "jobs.csv"
    file.write_text("id,account,priority\na,any,\nb,,urgent\n")
    assert run(["jobs", "import", str(file), "--dry-run", "--json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["accepted"], [one["id"] for one in found["rejected"]]) == (1, ["b"])
    assert "the names of sources and accounts are not checked" in err


def test_callback_types_are_sent_only_with_a_callback(tmp_path: Path) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text(
        "id,callback_url,callback_types\na,https://a.example/,succeeded failed\nb,https://b.example/,\nc,,\n"
    )
    sent: list[dict[str, Any]] = []

    class Taking(Scripted):
        def send(self, method: str, path: str, **options: Any) -> Answer:  # type: ignore[override]
            sent.extend(options["body"]["jobs"])
            return super().send(method, path, **options)

    plan = import_run.Plan(file=file, defaults={"callback_types": ["failed"]})
    assert import_run.run(plan, Taking({"created": 3, "existing": 0, "rejected": []}))
    assert [(one["id"], one.get("callback_types")) for one in sent] == [
        ("a", ["succeeded", "failed"]),
        ("b", ["failed"]),
        ("c", None),
    ]


def test_dry_run_checks_callback_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text("id,callback_url,callback_types\na,https://a.example/,faild\nb,https://b.example/,failed\n")
    plan = import_run.Plan(file=file, dry_run=True)
    assert not import_run.run(plan, Api(NOBODY, None))
    assert "did you mean ai.revor.job.failed?" in "".join(capsys.readouterr())


def test_empty_input_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELAY_URL", NOBODY)
    for name, text in (("empty", ""), ("blank.csv", "id\n\n"), ("noise", "[]\n")):
        (tmp_path / name).write_text(text)
        assert run(["jobs", "import", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out == "0 created, 0 already tracked, 0 rejected\n" * 3


def test_temporary_errors_are_waited_out() -> None:
    slept: list[float] = []
    api = Scripted(refusal(503, "7"), refusal(429, "0.5"), refusal(502), {"created": 2, "existing": 0, "rejected": []})
    assert Relay(api, slept.append).register(bodies("ab")).created == 2
    assert api.sent == [["a", "b"]] * 4
    assert slept == [7.0, 1.0, 2.0]


def test_only_a_relay_that_has_answered_is_waited_for() -> None:
    slept: list[float] = []
    relay = Relay(Scripted({"created": 1, "existing": 0, "rejected": []}, Unreachable("gone")), slept.append)
    relay.register(bodies("a"))
    assert relay.register(bodies("b")).created == 1
    assert slept == [0.5]
    with pytest.raises(Unreachable, match="never there"):
        Relay(Scripted(Unreachable("never there")), slept.append).register(bodies("a"))
    assert slept == [0.5]


def test_waiting_has_a_limit() -> None:
    slept: list[float] = []
    with pytest.raises(ApiError, match="not now"):
        Relay(Scripted(*[refusal(503)] * 100), slept.append).register(bodies("a"))
    assert PATIENCE_SECONDS - import_send.LAST_PAUSE_SECONDS < sum(slept) <= PATIENCE_SECONDS
    with pytest.raises(ApiError, match="not now"):
        Relay(Scripted(refusal(429, "3600")), slept.append).register(bodies("a"))


@pytest.mark.parametrize("status", [401, 403, 404, 409, 415])
def test_permanent_error_ends_the_import(status: int) -> None:
    api = Scripted(refusal(status))
    with pytest.raises(ApiError):
        Relay(api, lambda _: None).register(bodies("ab"))
    assert len(api.sent) == 1


def test_entry_that_makes_its_batch_fail_is_isolated() -> None:
    class Picky(Scripted):
        def send(self, method: str, path: str, **options: Any) -> Answer:  # type: ignore[override]
            answer = super().send(method, path, **options)
            if "x" in self.sent[-1]:
                raise _refusal(400, b'{"detail": "nested too deep", "code": "too_deep"}')
            return answer

    api = Picky()
    result = Relay(api, lambda _: None).register(bodies("abcxefg"))
    assert (result.created, result.faults) == (6, {3: Fault(code="too_deep", detail="nested too deep")})


@pytest.mark.parametrize("document", [None, [], {}, {"created": 1, "existing": 0, "rejected": [5]}])
def test_answer_that_is_not_a_relays_is_reported(document: Any) -> None:
    with pytest.raises(RelayError, match="is not a relay"):
        Relay(Scripted(document), lambda _: None).register(bodies("a"))


def test_batches_are_bounded_by_size_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(import_run, "BATCH_CHARACTERS", 100)
    api = Scripted()
    file = tmp_path / "ids"
    file.write_text("".join(f"{letter * 40}\n" for letter in "abcdef"))
    assert import_run.run(import_run.Plan(file=file), api)
    assert [len(ids) for ids in api.sent] == [3, 3]


def test_first_rejected_entries_are_shown_and_the_rest_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("relay.cli.importing.report.MAX_LISTED", 25)
    file = tmp_path / "jobs.csv"
    file.write_text("id,metadata\n" + "".join(f"job-{n}\x1b,x\n" for n in range(30)))
    assert not import_run.run(import_run.Plan(file=file), Scripted())
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "LINE\tID\tREASON"
    assert out[1].startswith("2\tjob-0 \tmetadata: ")
    assert out[21:] == ["and 10 more. --rejects FILE writes all of them", "0 created, 0 already tracked, 30 rejected"]
    assert not import_run.run(import_run.Plan(file=file, json=True), Scripted())
    found = json.loads(capsys.readouterr().out)
    assert (len(found["rejected"]), found["rejected_count"]) == (25, 30)


def test_run_without_a_relay_keeps_the_files_of_an_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_run, "BATCH_ENTRIES", 1)
    file, rejects, state = (tmp_path / name for name in ("jobs.csv", "rejects", "jobs.csv.import-state"))
    file.write_text("id,metadata\na,5\nb,\nc,\n")
    plan = import_run.Plan(file=file, rejects=rejects)
    with pytest.raises(RelayError, match="--resume"):
        import_run.run(plan, Scripted(refusal(401)))
    before = rejects.read_bytes(), state.read_bytes()
    assert b"# line 2: metadata" in before[0]
    with pytest.raises(RelayError, match="RELAY_TOKEN"):
        import_run.run(import_run.Plan(file=file, rejects=rejects, resume=True), Scripted(refusal(401)))
    assert (rejects.read_bytes(), state.read_bytes()) == before
    api = Scripted()
    assert not import_run.run(import_run.Plan(file=file, rejects=rejects, resume=True), api)
    assert api.sent == [["b"], ["c"]]
    assert not state.exists()


def test_import_continues_without_a_state_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ids"
    file.write_text("a\n")
    (tmp_path / "ids.import-state").mkdir()
    assert import_run.run(import_run.Plan(file=file), Scripted())
    err = capsys.readouterr().err
    assert "ids.import-state (Is a directory). An interrupted import will start again" in err


def test_interrupted_standard_input_says_to_import_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(import_run, "BATCH_ENTRIES", 1)
    (tmp_path / "ids").write_text("a\nb\n")
    api = Scripted({"created": 1, "existing": 0, "rejected": []}, refusal(401))
    with (tmp_path / "ids").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(RelayError) as raised:
            import_run.run(import_run.Plan(), api)
    assert "stopped after line 1 (import all of it again: tracked jobs do not change): " in str(raised.value)
    assert "RELAY_TOKEN" in str(raised.value)
    assert raised.value.exit_code == 1
    assert capsys.readouterr().out == "1 created, 0 already tracked, 0 rejected\n"
