"""Validates Kubernetes objects by their published schemas: a program for the Python of `.venv-artefacts`.

Reads JSON from stdin: `documents` (each {where, document}), `versions` of Kubernetes, and `crds`, paths of
CustomResourceDefinitions. Prints one line for each fault. Unknown fields are faults.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate import utils

utils.schema_contents = cache(utils.schema_contents)  # it reads the same megabytes for each object


def custom_schemas(paths: list[str]) -> dict[tuple[str, str], Any]:
    """The schemas of these definitions, by apiVersion and kind."""
    found = {}
    for path in paths:
        with open(path, encoding="utf-8") as stream:
            spec = yaml.safe_load(stream)["spec"]
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = _strict(version["schema"]["openAPIV3Schema"])
    return found


def _strict(schema: Any) -> Any:
    """The schema without unknown fields. Every object has `metadata`."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: _strict(one) for key, one in schema.items()}
    named = isinstance(schema.get("properties"), Mapping) and schema.get("type") == "object"
    if named and schema["properties"] and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def problems(given: Mapping[str, Any]) -> Iterator[str]:
    """One line for each fault of each document."""
    custom = custom_schemas(given["crds"])
    for one in given["documents"]:
        document = one["document"]
        schema = custom.get((document["apiVersion"], document["kind"]))
        if schema is not None:
            for error in jsonschema.Draft7Validator(schema).iter_errors(document):
                yield f"{one['where']}: {error.json_path}: {error.message}"
            continue
        for version in given["versions"]:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{one['where']}: Kubernetes {version}: {list(error.path)}: {error.message}"


if __name__ == "__main__":
    for line in problems(json.load(sys.stdin)):
        print(line)
