"""The models of the Python client, made from the OpenAPI document by datamodel-code-generator.

A client outlives the relay that it was made from: an answer may have new fields, and new values where a list of them
is given. So the bounds of the document are left out, and lists of values become hints.

    UPDATE_CLIENTS=1 .venv/bin/python -m pytest tests/clients/test_models.py
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.support.api_conformity import DOCUMENT
from tests.support.lock import ROOT

MODELS = ROOT / "clients" / "python" / "revor_relay_client" / "models.py"
ANSWERS = (
    *("RegisteredJob", "Job", "CloudEvent", "EventPage", "Publishing", "SubscriptionsApplied"),
    *("Pulled", "Acks", "DeliveryPage", "SignedRequest", "Problem"),
)
"""The answers that the client reads."""
BOUNDS = ("additionalProperties", "pattern", "maxLength", "minLength", "maximum", "minimum", "maxItems", "title")
OPTIONS = (
    *(
        "--input-file-type",
        "openapi",
        "--output-model-type",
        "pydantic_v2.BaseModel",
        "--target-python-version",
        "3.11",
    ),
    *("--extra-fields", "allow", "--enum-field-as-literal", "all", "--disable-timestamp", "--collapse-root-models"),
    *("--use-schema-description", "--use-union-operator", "--use-standard-collections", "--use-double-quotes"),
    *("--use-field-description", "--output-datetime-class", "AwareDatetime"),
)
HEADER = '"""What the relay answers. Made from its OpenAPI document by tests/support/client_models.py."""\n'


def generated(python: Path, folder: Path) -> str:
    """The text of models.py. `python`: that of the environment with datamodel-code-generator."""
    asked, made = folder / "answers.json", folder / "models.py"
    asked.write_text(json.dumps(_answers()))
    program = python.with_name("datamodel-codegen")
    ran = subprocess.run(
        [program, "--input", asked, "--output", made, *OPTIONS], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    text = made.read_text()
    return HEADER + re.sub(r"\A(#.*\n)+", "", text)


def _answers() -> dict[str, Any]:
    schemas = DOCUMENT["components"]["schemas"]
    wanted: dict[str, Any] = {}
    names = list(ANSWERS)
    while names:
        name = names.pop()
        if name not in wanted:
            wanted[name] = _open(schemas[name])
            names += re.findall(r"#/components/schemas/(\w+)", json.dumps(wanted[name]))
    info = {"title": "revor-relay", "version": "1"}
    return {"openapi": "3.1.0", "info": info, "paths": {}, "components": {"schemas": dict(sorted(wanted.items()))}}


def _open(schema: Any, *, of_fields: bool = False) -> Any:
    """The schema without its bounds. `of_fields`: names are those of fields."""
    if isinstance(schema, list):
        return [_open(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if of_fields:
        return {name: _open(one) for name, one in schema.items()}
    kept = {
        name: _open(one, of_fields=name == "properties")
        for name, one in schema.items()
        if name not in BOUNDS or (name == "additionalProperties" and one is not False)
    }
    if "const" in kept:
        return {"type": "string"}
    if kept.get("default") == "":
        kept.pop("format", None)
    if "enum" in kept:
        described = {name: kept.pop(name) for name in ("description", "default") if name in kept}
        return {**described, "anyOf": [kept, {"type": "string"}]}
    return kept
