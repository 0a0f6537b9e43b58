"""A definition with its recorded answers: of a preset, in `answers.yaml` beside it, or of a file, in its section
`answers`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from relay.errors import SettingsError, UsageError
from relay.sandbox.recorded import Call, Calls, RecordedFate, RecordedResource, Recording, Reply, Stage, unfilled
from relay.sources import definition as definition_module
from relay.sources.definition import ANSWERS, SourceDefinition, definition_in, load_definition, presets
from relay.sources.documents import Document, Loc, parse_document, read_document, refused

_SOURCES = Path(definition_module.__file__).parent
_MODELS = (Recording, RecordedResource, RecordedFate, Stage, Reply, Call)
_KEYS = frozenset(key for model in _MODELS for key in model.model_fields)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A definition and what its upstream answers, with the documents that they were read from. `path`: of a file; None:
    of a preset."""

    definition: SourceDefinition
    recording: Recording
    document: Document
    answers: Document
    path: Path | None = None

    @property
    def calls(self) -> Calls:
        """The calls of the definition."""
        return Calls(self.document.values)

    def where(self, *place: int | str) -> str:
        """File and line of a place in the definition, or in `answers` and `errors`, which are recorded. Of what is not
        written there: of what it would be in."""
        is_recorded = place[0] in (ANSWERS, "errors")
        document = self.answers if is_recorded else self.document
        return document.where(place[1:] if place[0] == ANSWERS else place)


def read_recorded(source: str) -> Recorded:
    """A preset by its name, or a file by its path. Raises UsageError if there is neither, and SettingsError with file,
    line and key for what is wrong in it."""
    if source in presets():
        return _of_preset(source)
    path = Path(source)
    if not os.path.exists(source):
        raise UsageError(f"there is neither a preset nor a file {source!r:.70}. Presets are {', '.join(presets())}")
    return _of_file(read_document(path), path)


def read_text(text: str, path: Path) -> Recorded:
    """As a file with this text at this path."""
    return _of_file(parse_document(text, str(path)), path)


def _of_file(document: Document, path: Path) -> Recorded:
    answers = document.section(ANSWERS)
    faults: list[str] = []
    try:
        definition = definition_in(document, name_of(path))
    except SettingsError as error:
        if answers is None:
            raise
        faults += error.lines
    if answers is None:
        raise SettingsError(
            f"{path}: has no section `{ANSWERS}`, with what the upstream answers: see docs/start/sandbox.md"
        )
    try:
        recording = _recording(answers, None if faults else definition)
    except SettingsError as error:
        faults += error.lines
    if faults:
        raise SettingsError(*faults)
    return Recorded(definition=definition, recording=recording, document=document, answers=answers, path=path)


def name_of(path: Path) -> str:
    """The name of a source whose definition is in this file: one that also fits into a variable."""
    return re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")[:64] or "mine"


def _of_preset(name: str) -> Recorded:
    definition, folder = load_definition(name), _SOURCES / name
    if not (folder / "answers.yaml").exists():
        raise UsageError(f"{name} has no recorded answers: `relay sandbox` plays it by itself")
    answers = read_document(folder / "answers.yaml", f"{name}/answers.yaml")
    document = read_document(folder / "definition.yaml", f"{name}/definition.yaml")
    recording = _recording(answers, definition)
    return Recorded(definition=definition, recording=recording, document=document, answers=answers)


def _recording(answers: Document, definition: SourceDefinition | None) -> Recording:
    """The recorded answers. Raises SettingsError if they are not in the form of a Recording, or not of the
    definition's resources. None: the definition cannot be read."""
    try:
        recording = Recording.model_validate(answers.values)
    except ValidationError as error:
        raise refused(answers.faults(error.errors(include_url=False), _KEYS)) from None
    wrong: list[tuple[Loc, str]] = [
        fault for part, value in answers.values.items() for fault in unfilled(value, (part,))
    ]
    if definition is not None:
        is_none = f"is no resource: {', '.join(definition.resources)} are"
        of, known = definition.resources, recording.resources
        wrong += [(("resources", name), is_none) for name in known if name not in of]
        wrong += [(("resources", name), f"nothing is recorded of {name}") for name in of if name not in known]
    faults = answers.faults(({"type": "value_error", "loc": place, "msg": words} for place, words in wrong), ())
    if faults:
        raise refused(faults)
    return recording
