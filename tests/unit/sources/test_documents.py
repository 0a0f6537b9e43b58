"""Files of a source: limits, and errors with file and line."""

import os
from pathlib import Path

import pytest

from relay.config.loader import MAX_FILE_BYTES
from relay.errors import SettingsError
from relay.sources.documents import parse_document, read_document

LAUGHS = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)), "b: *a8"])


def test_lines_are_those_of_keys_and_items() -> None:
    document = parse_document("a:\n  b: 1\n  c:\n  - x\n  - {y: 2}\n", "f.yaml")
    assert document.values == {"a": {"b": 1, "c": ["x", {"y": 2}]}}
    assert document.lines[("a", "c", 1, "y")] == 5
    section = document.section("a")
    assert section is not None
    assert (section.values["b"], section.lines[("b",)]) == (1, 2)
    assert document.section("z") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "f.yaml:1: expected a mapping of keys"),
        ("a: 1\nb: ]", "f.yaml:2: not YAML: "),
        ("a: 1\n---\nb: 2", "f.yaml:2: not YAML: "),
        ("a:\n\tb: 1", "f.yaml:2: not YAML: a tab: indent with spaces"),
        ("a: 1\n  b: 2", "f.yaml:2: not YAML: mapping values are not allowed in this context (line 2 is indented"),
        ("a:\n  b: 1\n\n   c: 2", "f.yaml:4: not YAML: mapping values are not allowed in this context (line 4 is"),
        ("a:\n    b: 1\n  c: 2", "f.yaml:3: not YAML: did not find expected key (line 3 is indented otherwise than"),
        ("a: *b", "f.yaml:1: not YAML: found undefined alias"),
        ("a:\n  b: 1\n  b: 2", "f.yaml:3: a.b is set twice, first at f.yaml:2: remove one"),
        ("a: &a {x: 1}\nb: {<<: *a}", "f.yaml:2: merge keys (<<) are not supported"),
        ("a: {[x]: 1}", "f.yaml:1: a key in a is not plain text"),
        ("a: !!binary aGk=", "f.yaml:1: a has the YAML type binary"),
        ("a: !!python/object:os.system x", "f.yaml:1: a has a YAML tag"),
        ('a: !!int ""', "f.yaml:1: a has a YAML tag or form that is not supported"),
        ("a: " + "9" * 5000, "f.yaml:1: a has a YAML tag or form that is not supported"),
        ("a: \x00", "f.yaml:1: YAML does not allow control characters"),
        ('a: "\\ud800"', "f.yaml:1: not YAML: "),
        (LAUGHS, "f.yaml:1: more than 50000 values after expanding aliases"),
        ("a: &a [*a]", "f.yaml:1: nested deeper than 32 levels"),
        ("a: " + "[" * 200 + "]" * 200, "f.yaml:1: nested deeper than 32 levels"),
        ("a: " + "[" * 200_000, "f.yaml:1: not YAML: "),
        ("- " * 200_000, "f.yaml:1: not YAML: "),
        (f"? {'k' * 3000}\n: {{a: 1}}", "f.yaml:1: a key is longer than 2000 characters"),
    ],
)
def test_what_is_not_plain_or_too_large_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_document(text, "f.yaml")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_keys_and_dates_are_their_text() -> None:
    assert parse_document("404: 2026-05-20\non: x", "f.yaml").values == {"404": "2026-05-20", "on": "x"}


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    for name, content, message in (
        ("bytes.yaml", b"a: 1\nb: \xff", "bytes.yaml:2: not UTF-8 text"),
        ("large.yaml", b"#" * (MAX_FILE_BYTES + 1), "large.yaml: larger than 1 MiB"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SettingsError, match=message):
            read_document(tmp_path / name)
    with pytest.raises(SettingsError, match="name too long"):
        read_document(tmp_path / ("a" * 5000))
    with pytest.raises(SettingsError, match="null byte"):
        read_document(tmp_path / "a\0b")
    with pytest.raises(SettingsError, match="No such file"):
        read_document(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match="Is a directory"):
        read_document(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(SettingsError, match=r"pipe\.yaml: is a named pipe"):
        read_document(tmp_path / "pipe.yaml")
