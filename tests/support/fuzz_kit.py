"""How much the fuzz tests make up, from which seed, and out of what.

Two variables change that, and `make soak` sets them: FUZZ_TEST_COUNT is the number of requests to the API, and eight
times the number of inputs that a parser gets; FUZZ_TEST_SEED is where both begin. The same two give the same cases.
"""

import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from relay.errors import RelayError

COUNT = int(os.environ.get("FUZZ_TEST_COUNT") or 400)
SEED = int(os.environ.get("FUZZ_TEST_SEED") or 20260520)
INPUTS = max(1, COUNT // 8)

Result = TypeVar("Result")


def seeded(**options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a test of hypothesis's from our seed, whatever was found before."""
    bounds = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)
    return lambda test: seed(SEED)(bounds(test))


def fuzzed(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Like `given`, bounded and seeded; a failure says how to see it again."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def reported(*args: Any, **arguments: Any) -> None:
            with_note(lambda: test(*args, **arguments))

        return seeded(max_examples=INPUTS, phases=[Phase.generate, Phase.shrink])(given(**strategies)(reported))

    return decorate


def with_note(run: Callable[[], Result]) -> Result:
    """The result; what it raises says which seed it came from."""
    try:
        return run()
    except Exception as error:
        error.add_note(f"made up by FUZZ_TEST_SEED={SEED} FUZZ_TEST_COUNT={COUNT}")
        raise


def value_or_refusal(run: Callable[[], Result], errors: type[Exception] = RelayError) -> Result | None:
    """The result, or None where one of our own errors came instead: a sentence in one line, which UTF-8 can carry."""
    try:
        return run()
    except errors as error:
        if isinstance(error, RelayError):
            said = str(error)
            assert said
            assert "\n" not in said
            assert said.encode()
        return None


# What things are made up of ----------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Co", "Zs", "Sc", "Nd"]), max_size=12),
    st.sampled_from(
        (
            *("", " ", "\x00", "\ud800", "\udfff", "\udcff", "\ufeff", "\u202e", "\u2028", "\u0660", "²", "ß" * 200),
            *("null", "true", "~", "NaN", "-0", "1e400", "0x" + "f" * 4000, "9" * 5000, "1_0", "../..", "%2F", "a/b"),
            *("${", "${}", "${A}", "$${A}", "${file:/}", "${file:\x00}", "${a b}", "x" * 5000, "{", "[", "[::1]", "&a"),
            *("2026-05-20T10:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.9999Z", "https://h.example/"),
        )
    ),
)
"""Text, halves of surrogate pairs and all."""

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from((0, -1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -0.0, 5e-324)),
)

VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
"""What Python's own JSON module can write and read: NaN and Infinity too."""


def whole(text: str) -> str:
    """The text without halves of surrogate pairs: what a parser of UTF-8 or JSON can hand on."""
    return text.encode("utf-8", "ignore").decode()


def _carried(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, dict):
        return {whole(name): _carried(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_carried(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return 2**64 - 1
    return value


JSON_VALUES = VALUES.map(_carried)
"""What a parser of JSON hands on to us."""


def written(value: Any) -> bytes:
    """The value as JSON text; what JSON has no word for too, halves of surrogate pairs as escapes."""
    return json.dumps(value).encode()


def nested(value: bytes) -> st.SearchStrategy[bytes]:
    """The JSON text inside many objects or lists."""
    depths = st.sampled_from((10, 200, 254, 255, 1000, 1023, 1024, 1025, 5000))
    around = st.sampled_from(((b"[", b"]"), (b'{"item":', b"}"), (b'{"a":[', b"]}")))
    return st.builds(lambda depth, pair: pair[0] * depth + value + pair[1] * depth, depths, around)


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes], tokens: Sequence[bytes]) -> bytes:
    """Something valid with a few pieces of it replaced, taken out or repeated."""
    raw = bytearray(draw(valid))
    for _ in range(draw(st.integers(0, 5))):
        begin = draw(st.integers(0, len(raw)))
        end = draw(st.integers(begin, min(len(raw), begin + 12)))
        piece = draw(
            st.sampled_from(tokens)
            | st.binary(max_size=4)
            | st.integers(0, len(raw)).map(lambda at: bytes(raw[at : at + 20]))
        )
        raw[begin:end] = piece
    return bytes(raw)


JSON_TOKENS = [
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"\\ud800", b"\\u0000", b"NaN", b"-Infinity", b"null", b"true"),
    *(b"1e999", b"-1e-999", b"1" * 400, b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"id":', b'"status":', b'"item":'),
]


def raw_json(values: st.SearchStrategy[Any], valid: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """Bodies: these values as JSON, the valid ones damaged, nested deep, and bytes that are no JSON."""
    samples = [written(value) for value in valid]
    return st.one_of(
        values.map(written),
        mutated(st.sampled_from(samples), JSON_TOKENS),
        st.sampled_from([b"1", *samples]).flatmap(nested),
        st.builds(
            lambda sample, depth: sample.replace(b": null", b": " + b"[" * depth + b"]" * depth),
            st.sampled_from(samples),
            st.integers(1, 1100),
        ),
        st.binary(max_size=60),
    )


def mutated_text(valid: Sequence[str], tokens: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """The same for text; bytes that are no UTF-8 become halves of surrogate pairs, as they do in variables."""
    pieces = [token.encode("utf-8", "surrogatepass") for token in (*tokens, "", " ", "\x00", "9", "é")]
    made = mutated(st.sampled_from([text.encode() for text in valid]), pieces)
    return made.map(lambda raw: raw.decode("utf-8", "surrogateescape")) | TEXTS
