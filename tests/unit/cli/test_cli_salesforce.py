"""`relay salesforce-definition` writes the files that Salesforce's own command deploys."""

from pathlib import Path

import pytest

from relay.cli import run

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
