"""`relay jobs import` without a relay: conflicting options, retries and output."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.cli import run
from relay.cli.client import Answer, Api, ApiError, Unreachable, _refusal
from relay.cli.jobs import importing
from relay.cli.jobs.importing import PATIENCE_SECONDS, Fault, ImportStopped, Relay

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
    return _refusal("http://relay", status, b'{"detail": "not now", "code": "store"}', retry_after)


def bodies(ids: str) -> list[dict[str, Any]]:
    return [{"id": id} for id in ids]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metadata", "[1]"], "--metadata is not a JSON object"),
        (["--source", "a\nb"], "--source contains characters"),
        (["nope.csv"], "cannot read nope.csv: No such file"),
        (["."], "cannot read .: Is a directory"),
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
    assert PATIENCE_SECONDS - importing.LAST_PAUSE_SECONDS < sum(slept) <= PATIENCE_SECONDS
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
                raise _refusal("http://relay", 400, b'{"detail": "nested too deep", "code": "too_deep"}')
            return answer

    api = Picky()
    result = Relay(api, lambda _: None).register(bodies("abcxefg"))
    assert (result.created, result.faults) == (6, {3: Fault("too_deep", "nested too deep")})


def test_batches_are_bounded_by_size_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importing, "BATCH_BYTES", 100)
    api = Scripted()
    file = tmp_path / "ids"
    file.write_text("".join(f"{letter * 40}\n" for letter in "abcdef"))
    assert importing.run(api, file, {})
    assert [len(ids) for ids in api.sent] == [3, 3]


def test_every_rejected_line_is_reported_with_its_number_and_the_others_are_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importing, "MAX_LISTED", 25)
    monkeypatch.setattr(importing, "BATCH_ENTRIES", 7)
    file = tmp_path / "jobs.csv"
    file.write_text("id,metadata\n" + "".join(f"job-{n}\x1b,x\ngood-{n},\n" for n in range(30)))
    api = Scripted()
    assert not importing.run(api, file, {})
    out, err = capsys.readouterr()
    assert out == "30 created, 0 already tracked, 30 rejected\n"
    assert [line.partition(": ")[0] for line in err.splitlines()] == [f"line {2 * n + 2} (job-{n} )" for n in range(30)]
    assert [id for batch in api.sent for id in batch] == [f"good-{n}" for n in range(30)]
    assert not importing.run(Scripted(), file, {}, json=True)
    found = json.loads(capsys.readouterr().out)
    assert (len(found["rejected"]), found["rejected_count"], found["complete"]) == (25, 30, True)
    assert found["rejected"][0] == {
        **{"line": 2, "id": "job-0 ", "code": "wrong_type"},
        "detail": 'metadata: expected a JSON object such as {"deal": 42}',
    }


def test_rejections_of_the_relay_have_the_line_of_their_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text('id,metadata\na,5\n\n"b\n",\nc,\n')
    api = Scripted({"created": 1, "existing": 0, "rejected": [{"index": 1, "code": "x", "detail": "why\x07"}]})
    assert not importing.run(api, file, {})
    first, second = capsys.readouterr().err.splitlines()
    assert (first.partition(":")[0], second) == ("line 2 (a)", "line 6 (c): why ")


def test_warning_of_several_batches_is_printed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importing, "BATCH_ENTRIES", 1)
    file = tmp_path / "ids"
    file.write_text("a\nb\n")
    warned = {"created": 1, "existing": 0, "rejected": [], "warnings": ["the host a.invalid does not resolve\x07"]}
    assert importing.run(Scripted(dict(warned), dict(warned)), file, {})
    out, err = capsys.readouterr()
    assert out == "2 created, 0 already tracked, 0 rejected\n"
    assert err == "relay: the host a.invalid does not resolve \n"
    assert importing.run(Scripted(dict(warned), dict(warned)), file, {}, json=True)
    assert json.loads(capsys.readouterr().out)["warnings"] == warned["warnings"]


def test_reading_stays_one_batch_ahead_of_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of any size needs the memory of one batch."""
    read_ahead: list[int] = []
    lines = 0

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            nonlocal lines
            lines += 1
            piece = b"" if lines > 100_000 else b"job-%06d\n" % lines
            buffer[: len(piece)] = piece
            return len(piece)

    class Counting(Scripted):
        def send(self, method: str, path: str, **options: Any) -> Answer:  # type: ignore[override]
            read_ahead.append(lines - sum(map(len, self.sent)))
            return super().send(method, path, **options)

    stdin = io.TextIOWrapper(io.BufferedReader(Endless(), 16))
    monkeypatch.setattr("sys.stdin", stdin)
    api = Counting()
    assert importing.run(api, None, {})
    assert sum(map(len, api.sent)) == 100_000
    assert max(read_ahead) <= importing.BATCH_ENTRIES + 2


@pytest.mark.parametrize("is_file", [True, False])
def test_interrupted_import_says_to_run_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, is_file: bool
) -> None:
    monkeypatch.setattr(importing, "BATCH_ENTRIES", 1)
    file = tmp_path / "ids"
    file.write_text("a\nb\n")
    api = Scripted({"created": 1, "existing": 0, "rejected": []}, refusal(401))
    with file.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(ImportStopped) as raised:
            importing.run(api, file if is_file else None, {})
    assert str(raised.value).startswith(
        "stopped after line 1. Run it again from the start: tracked jobs do not change: "
    )
    assert "RELAY_TOKEN" in str(raised.value)
    assert raised.value.exit_code == 1
    assert capsys.readouterr().out == "1 created, 0 already tracked, 0 rejected\n"
