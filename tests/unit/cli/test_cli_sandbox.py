"""`relay sandbox --source`: presets and files, what is wrong in them, and the lines that configure a relay."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from relay.cli import run
from relay.cli.definitions.recorded import name_of, read_recorded
from relay.cli.node.sandbox import settings_for
from relay.cli.node.serve import _print_examples
from relay.config.settings import SourceSettings, load_settings
from relay.errors import SettingsError, UsageError
from relay.node.definitions import definitions_of, with_base_urls
from relay.sources.definition import presets

MINE = """\
version: 2
title: Mine
base_url: https://api.mine.example
credential: {header: X-Key}
probe: /v1/me
resources:
  runs:
    type_prefix: example.mine.run.job
    source_path: /v1/runs
    path: /v1/runs/{id}
    creates: [/v1/runs]
    status: /state
    states:
      - {at: /state, is: done, state: succeeded}
    fields: {id: /id}
answers:
  resources:
    runs:
      job: {id: "{id}", state: waiting}
      fates:
        done: {stages: [{seconds: 1}, {show: {state: done}}]}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("My-source.yaml").write_text(MINE)


@pytest.mark.parametrize("name", [one for one in presets() if one != "revor"])
def test_every_preset_has_recorded_answers(name: str) -> None:
    recorded = read_recorded(name)
    assert set(recorded.recording.resources) == set(recorded.definition.resources)


def test_file_has_its_answers_in_a_section() -> None:
    recorded = read_recorded("My-source.yaml")
    assert (recorded.definition.name, list(recorded.recording.resources)) == ("my_source", ["runs"])


@pytest.mark.parametrize(
    ("path", "name"), [("a/Acme API.v2.yaml", "acme_api_v2"), ("x.yaml", "x"), ("日.yaml", "mine"), ("-.yml", "mine")]
)
def test_name_of_a_file(path: str, name: str) -> None:
    assert name_of(Path(path)) == name


def test_lines_configure_a_relay_for_the_sandbox() -> None:
    for source, name in (("My-source.yaml", "my_source"), ("openai-batch", "openai_batch")):
        lines = settings_for(read_recorded(source), "http://127.0.0.1:8090", 10)
        assert f"/sources/{name} in place of https://api." in lines
        environ = dict(
            given.split("=", 1)
            for line in lines.splitlines()
            if line.startswith("export ")
            for given in line.removeprefix("export ").split()
        )
        settings = load_settings(None, environ)
        definitions = definitions_of(settings)
        (configured,) = with_base_urls(settings, definitions).sources.values()
        assert (configured.name, configured.base_url) == (name, "http://127.0.0.1:8090")
        assert configured.polling.min_interval_seconds == 0.1
        assert configured.accounts["default"].api_key == "sandbox:sandbox"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "title", "title": "titel"}, "My-source.yaml:1: title: is missing"),
        ({"stages": "stage"}, "My-source.yaml:21: resources.runs.fates.done.stages: is missing"),
        ({"job: {": "jobs: {"}, "My-source.yaml:19: resources.runs.jobs: is not a known key: is it job?"),
        (
            {"    runs:\n      job": "    walks:\n      job"},
            "My-source.yaml:18: resources.walks: is no resource: runs are",
        ),
        ({"answers:": "hints:"}, "My-source.yaml:17: hints.resources: is not a known key"),
        ({MINE[MINE.index("answers:") :]: ""}, "My-source.yaml: has no section `answers`"),
        ({MINE[MINE.index("answers:") :]: "answers: 5"}, "My-source.yaml: has no section `answers`"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(changes: Mapping[str, str], message: str) -> None:
    text = MINE
    for old, new in changes.items():
        text = text.replace(old, new)
    Path("My-source.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_recorded("My-source.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "opanai"], "there is neither a preset nor a file 'opanai'. Presets are anthropic-batch, "),
        (["--source", "openai-batch", "--speed", "0"], "--speed: speed must be above 0, not 0.0"),
        (["--speed", "nan"], "--speed: "),
        (["--source", "openai-batch", "--rate-limit", "1/1"], "--rate-limit and --count-attempts are for the sandbox"),
        (["--source", "openai-batch", "--host", "0.0.0.0"], "is not a loopback address"),
        (["--source", "."], "Is a directory"),
        (["--source", "a" * 5000], "there is neither a preset nor a file 'aaa"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sandbox", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_preset_without_answers_says_so() -> None:
    with pytest.raises(UsageError, match="revor has no recorded answers"):
        read_recorded("revor")


@pytest.mark.parametrize(
    ("sources", "body"),
    [
        (["acme"], '{"id":"JOB_ID"}'),
        (["acme", "revor"], '{"id":"JOB_ID"}'),
        (["acme", "openai"], '{"id":"JOB_ID","source":"acme"}'),
    ],
)
def test_example_of_a_job_names_a_source_where_one_is_needed(
    sources: list[str], body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SourceSettings(base_url="https://api.example")
    _print_examples("http://127.0.0.1:8080", "whsec", dict.fromkeys(sources, settings))
    assert f"/v1/jobs -H 'Content-Type: application/json' -d '{body}'" in capsys.readouterr().out
