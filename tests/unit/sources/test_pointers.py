"""JSON pointers, RFC 6901."""

from typing import Any

import pytest

from relay.sources.pointers import at, document_of, parse

DOCUMENT: dict[str, Any] = {
    **{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8},
    "null": None,
}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [  # RFC 6901, section 5
        *(("", DOCUMENT), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1), ("/c%d", 2)),
        *(("/e^f", 3), ("/g|h", 4), ("/i\\j", 5), ('/k"l', 6), ("/ ", 7), ("/m~0n", 8), ("/null", None)),
        *(("/foo/2", "none"), ("/foo/-", "none"), ("/foo/00", "none"), ("/foo/-1", "none"), ("/foo/²", "none")),
        *(("/foo/bar", "none"), ("/foo/999999999999", "none"), ("/other", "none"), ("/null/x", "none")),
    ],
)
def test_value_at_a_pointer(pointer: str, value: object) -> None:
    assert at(DOCUMENT, parse(pointer), "none") == value


@pytest.mark.parametrize("pointer", ["foo", "#/foo", "/a~", "/a~2", "/~", "/" + "x" * 500, None, 5, ["a"]])
def test_what_is_no_pointer(pointer: object) -> None:
    with pytest.raises(ValueError, match="JSON pointer"):
        parse(pointer)


@pytest.mark.parametrize(
    ("values", "document"),
    [
        ({}, {}),
        ({"": {"id": 1}}, {"id": 1}),
        ({"/ok": True, "/item": {"id": 1}}, {"ok": True, "item": {"id": 1}}),
        ({"/a/b": 1, "/a/c/d": 2}, {"a": {"b": 1, "c": {"d": 2}}}),
        ({"/e/type": "x", "/e/messages/0": "y"}, {"e": {"type": "x", "messages": ["y"]}}),
        ({"/e/0/a": 1, "/e/0/b": 2, "/f/0": 3}, {"e": [{"a": 1, "b": 2}], "f": [3]}),
        ({"/f/0": 1, "/f": 2, "/g": 3}, {"f": 2, "g": 3}),
        ({"/a": 1, "/a/b": 2}, {"a": {"b": 2}}),
        ({"": "x", "/b": 2}, {"b": 2}),
    ],
)
def test_document_of_values(values: dict[str, object], document: object) -> None:
    assert document_of((parse(pointer), value) for pointer, value in values.items()) == document
