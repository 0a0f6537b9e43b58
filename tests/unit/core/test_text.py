"""Text from outside: whatever came, UTF-8, JSON and PostgreSQL can hold what is kept of it."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.jsontext import decoded, storable


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain", "plain"),
        ("Café Žižek".encode(), "Café Žižek"),
        ("Café".encode("latin-1"), "Café"),
        (b"a\0b", "a\N{REPLACEMENT CHARACTER}b"),
        (b"\xff\0", "ÿ\N{REPLACEMENT CHARACTER}"),
        (b"\xed\xa0\xbd", "í\xa0½"),
    ],
)
def test_bytes_are_utf8_or_else_latin1(raw: bytes, text: str) -> None:
    assert decoded(raw) == text
    assert storable(raw.decode("utf-8", "surrogateescape")) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("a\ud83d", "a\N{REPLACEMENT CHARACTER}"),
        ("\ude00\ud83d\0", "\N{REPLACEMENT CHARACTER}" * 3),
        ("\ud83d\ude00", "😀"),
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b"),
    ],
)
def test_lone_surrogates_and_nul_are_replaced(given: str, text: str) -> None:
    assert storable(given) == text


@given(st.text(st.characters(categories=None)))
def test_any_text_can_be_stored(text: str) -> None:
    kept = storable(text)
    assert "\0" not in kept
    assert orjson.loads(orjson.dumps(kept)) == kept
    assert storable(kept) == kept
