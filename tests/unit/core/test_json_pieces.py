import random

import orjson
import pytest

from relay.core import jsontext
from relay.core.jsontext import SLICE_BYTES, array_pieces, cut_elements, has_more_containers


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b"1", 0),
        (b"[]", 1),
        (b'{"a":[{},[1,2]]}', 4),
        (b'["[[[{{{"]', 1),
        (b'["\\"[[[",[]]', 2),
        (b'["\\\\",[]]', 2),
        (b'["\\\\\\"[",[]]', 2),
        (b'{"[":"{","\\\\":[]}', 2),
        (b'["[', 1),  # not JSON: counted up to where a parser stops
        (b"[[[[[", 5),
    ],
)
def test_containers_are_counted_outside_of_strings(body, count):
    assert has_more_containers(body, count - 1)
    assert not has_more_containers(body, count)


def pieces_of(body):
    return [piece for piece in array_pieces(body, 1, len(body) - 1) if not isinstance(piece, int)]


def cut(elements, end=b""):
    """The pieces of an array with these elements as text, and what they parse to."""
    body = b"[" + b",".join(elements) + end + b"]"
    pieces = pieces_of(body)
    assert b",".join(body[piece.start : piece.end] for piece in pieces) == body[1:-1]
    for piece in pieces:
        text = b"[" + body[piece.start : piece.end] + b"]"
        found = orjson.loads(text)
        assert not piece.is_long or len(found) == 1
        assert not has_more_containers(text, piece.containers + 1)
        assert piece.containers == 0 or has_more_containers(text, piece.containers)
    return pieces


def test_an_array_is_cut_between_its_elements():
    elements = [
        orjson.dumps({"id": f"job-{n}", "metadata": {"list": [1, [2, "]},{"]], "text": '"\\'}}) for n in range(5_000)
    ]
    pieces = cut(elements)
    assert len(pieces) > 5
    assert all(piece.end - piece.start <= 2 * SLICE_BYTES for piece in pieces[:-1])
    assert [piece.is_long for piece in pieces] == [False] * len(pieces)


def test_an_element_longer_than_a_slice_is_alone():
    long = orjson.dumps({"text": "[,]" * SLICE_BYTES})
    for elements in ([long], [b"1", long], [long, b"1"], [b"1", long, b"[2]", long, long, b'{"a":[3]}'], [long] * 3):
        pieces = cut(elements)
        assert sum(piece.is_long for piece in pieces) == elements.count(long)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16])
def test_the_cuts_are_right_wherever_the_slices_end(monkeypatch, size):
    monkeypatch.setattr(jsontext, "SLICE_BYTES", size)
    values = random.Random(size)
    scraps = ["\\", '"', "[", "]", "{", "}", ",", "a", "\u00e9", "\U0001f600"]

    def value(depth):
        kind = values.randrange(5 if depth else 3)
        if kind == 0:
            return values.randrange(100)
        if kind < 3:
            return "".join(values.choice(scraps) for _ in range(values.randrange(8)))
        if kind == 3:
            return [value(depth - 1) for _ in range(values.randrange(4))]
        return {str(value(0)): value(depth - 1) for _ in range(values.randrange(4))}

    for _ in range(200):
        cut([orjson.dumps(value(3)) for _ in range(values.randrange(1, 6))], end=b" " * values.randrange(3))


def parsed(body):
    return [orjson.loads(b"[" + body[piece.start : piece.end] + b"]") for piece in pieces_of(body)]


@pytest.mark.parametrize("inside", [b"]", b"1]", b"[", b"{}}", b'"', b'"\\"', b"1],[2"])
def test_text_that_is_no_array_is_noticed(inside):
    with pytest.raises(ValueError, match=r"do not match|unexpected"):
        parsed(b"[" + inside + b"]")


def test_containers_are_counted_as_the_text_is_read():
    body = b"[" + b",".join([b'[{"[":[]}]'] * 20_000) + b"]"
    counts = [one for one in array_pieces(body, 1, len(body) - 1) if isinstance(one, int)]
    assert len(counts) == len(body) // SLICE_BYTES + 1
    assert counts == sorted(counts)
    assert counts[-1] == 60_000


@pytest.mark.parametrize(
    ("elements", "levels"),
    [
        ([b"1", b' "a,[" ', b"{}", b'{"[\\"":[1,[]],"b":2}'], [0, 0, 1, 3]),
        ([b"[" * 5_000 + b"]" * 5_000, b"[]"], [5_000, 1]),
        ([b"", b""], [0, 0]),
    ],
)
def test_elements_of_any_nesting_are_cut_apart(elements, levels):
    text = b",".join(elements)
    found = cut_elements(text)
    assert [text[one.start : one.end] for one in found] == elements
    assert [one.levels for one in found] == levels
