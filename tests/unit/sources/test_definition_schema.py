"""The JSON Schema of definitions, for editors.

`UPDATE_SCHEMA=1 pytest tests/unit/sources/test_definition_schema.py` writes it anew: read the difference.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic.json_schema import models_json_schema

from relay.resources import schemas_dir
from relay.sandbox.recorded import Recording
from relay.sources import definition as definition_module
from relay.sources.definition import ANSWERS, SourceDefinition, presets

NAME = "source-definition.v2"
FILE = schemas_dir() / f"{NAME}.json"
SOURCES = Path(definition_module.__file__).parent


def made() -> dict[str, Any]:
    """The schema of a file: without the name, which the settings give, and with hints over the general ones."""
    _, whole = models_json_schema([(SourceDefinition, "validation"), (Recording, "validation")])
    parts: dict[str, Any] = whole["$defs"]
    root = parts.pop("SourceDefinition")
    del root["properties"]["name"], parts["Hints"]["required"]
    root["required"] = [key for key in root["required"] if key not in ("name", "hints")]
    root["properties"][ANSWERS] = {"$ref": "#/$defs/Recording"}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"/schemas/{NAME}.json"}
    return {**head, **root, "$defs": parts}


def test_schema_is_that_of_the_model() -> None:
    text = json.dumps(made(), indent=2, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SCHEMA"):
        FILE.write_text(text, encoding="utf-8")
    assert FILE.read_text(encoding="utf-8") == text
    Draft202012Validator.check_schema(json.loads(text))


@pytest.mark.parametrize("name", presets())
def test_presets_name_the_schema_and_pass_it(name: str) -> None:
    path = SOURCES / name / "definition.yaml"
    text = path.read_text(encoding="utf-8")
    named = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == FILE.resolve()
    document = yaml.safe_load(text)
    hints, answers = path.with_name("hints.yaml"), path.with_name("answers.yaml")
    if hints.exists():
        document["hints"] = yaml.safe_load(hints.read_text(encoding="utf-8"))
    if answers.exists():
        document[ANSWERS] = yaml.safe_load(answers.read_text(encoding="utf-8"))
    assert [error.message for error in Draft202012Validator(made()).iter_errors(document)] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("title:", "titel:"),
        ("version: 2", "version: 3"),
        ("status: /status", "status: status"),
        ("started_at: {at:", "started_at: {in:"),
        ("state: queued", "state: waiting"),
        ("creates: [/v1/batches]", "creates: [v1]"),
        ("credential:", "name: x\ncredential:"),
    ],
)
def test_mistakes_fail_it(old: str, new: str) -> None:
    text = (SOURCES / "openai-batch" / "definition.yaml").read_text(encoding="utf-8")
    assert old in text
    document = yaml.safe_load(text.replace(old, new))
    assert list(Draft202012Validator(made()).iter_errors(document))
