"""JSON as upstreams and callers write it: read whole, and written again with every digit."""

import json

import orjson
import pytest

from relay.core.jsontext import MAX_INTEGER_DIGITS, JSONDecodeError, dumps, loads, well_formed

BAD = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"Hi \ud83d"', f"Hi {BAD}"),
        (r'"\uD83D and \uDE00"', f"{BAD} and {BAD}"),
        (r'"\ude00\ud83d"', BAD * 2),
        (r'"\ud83d\ud83d\ude00"', f"{BAD}😀"),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\\ud83d"', r"\ud83d"),
        (r'"\\\ud83d"', f"\\{BAD}"),
        (r'"\\\\\ud83d\\"', f"\\\\{BAD}\\"),
        (r'"\ud83d\ude00\ude00"', f"😀{BAD}"),
        (r'{"\ud83d": {"a\udc00": [1]}}', {BAD: {f"a{BAD}": [1]}}),
        (r'["\ud83d", 123456789012345678901]', [BAD, 123456789012345678901]),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", 2**64),
        ("-9223372036854775809", -(2**63) - 1),
        (' {"id" : 123456789012345678901234567890}', {"id": 123456789012345678901234567890}),
        ("[1,123456789012345678901234567890]", [1, 123456789012345678901234567890]),
        ("[\n123456789012345678901234567890]", [123456789012345678901234567890]),
        ('"12345678901234567890"', "12345678901234567890"),
        ('[": 12345678901234567890", 1e3]', [": 12345678901234567890", 1000.0]),
        ("12345678901234567890.5", 12345678901234567890.5),
        ("1" * MAX_INTEGER_DIGITS, int("1" * MAX_INTEGER_DIGITS)),
        ("-" + "1" * MAX_INTEGER_DIGITS, -int("1" * MAX_INTEGER_DIGITS)),
        ("1" * (MAX_INTEGER_DIGITS + 1), "1" * (MAX_INTEGER_DIGITS + 1)),
        ("9" * 5_000, "9" * 5_000),
        ('{"a": 1e400, "b": -1E+400, "c": 1e-400}', {"a": "1e400", "b": "-1E+400", "c": 0.0}),
        (r'"nul \u0000"', "nul \0"),
    ],
)
def test_json_round_trips_with_every_digit(text: str, value: object) -> None:
    found = loads(text.encode())
    assert found == value
    assert type(found) is type(value)
    assert json.loads(dumps(found)) == value
    assert loads(dumps([found])) == [value]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[1,]", b"NaN", b"[Infinity, 1e400]", b'["\\ud83d", NaN]', b'"\\ud83', b"123456789012345678901x"),
        *(b'"\n"', b'"\xff"', b'"\xed\xa0\xbd"', b"\xef\xbb\xbf{}", b'\xff{"a":123456789012345678901}', b"[" * 2000),
        b'"\\ud83d\0\0"',
    ],
)
def test_invalid_json_is_refused(body: bytes) -> None:
    with pytest.raises(JSONDecodeError):
        loads(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'"caf\xe9"', f"caf{BAD}"),
        (b'"\xed\xa0\xbd \\ud83d"', f"{BAD * 3} {BAD}"),
        (b"\xef\xbb\xbf[123456789012345678901]", [123456789012345678901]),
    ],
)
def test_invalid_utf8_of_an_upstream_replaces_one_character(body: bytes, value: object) -> None:
    assert loads(body, repair=True) == value
    with pytest.raises(JSONDecodeError):
        loads(body + b"x", repair=True)


def test_very_deep_json_keeps_its_structure() -> None:
    body = b'{"a":' * 1000 + b"123456789012345678901" + b"}" * 1000
    found = loads(body)
    for _ in range(1000):
        found = found["a"]
    assert found == pytest.approx(123456789012345678901)


@pytest.mark.parametrize("value", [object(), {1: 2}, 2j])
def test_values_that_are_not_json_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        dumps({"a": value})


def test_nesting_too_deep_is_refused() -> None:
    value: object = 2**64
    for depth in range(5_000):
        value = [value]
        if depth in (300, 4_999):
            with pytest.raises(TypeError):
                dumps(value)


def test_halves_of_surrogate_pairs_are_never_written() -> None:
    assert loads(dumps({"\ud83d": ("a\udc00", True, None, 2.5, 2**64)})) == {BAD: [f"a{BAD}", True, None, 2.5, 2**64]}
    assert dumps({"b": 1, "a": 2**64}, orjson.OPT_SORT_KEYS) == b'{"a":18446744073709551616,"b":1}'
    assert (well_formed("a\ud83d\ude00\ud83d"), well_formed("é")) == (f"a😀{BAD}", "é")
