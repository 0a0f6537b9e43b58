"""Expressions in CEL: what they see, what is refused and where, and that none of them takes long."""

import gc
import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.filters import EventView, ExpressionFailed, ExpressionRefused
from relay.expressions import cel
from relay.expressions.cel import compile_cel, regex_cost
from tests.support.loop_watch import processor_seconds

pytest.importorskip("cel")


def view(data: object = None, **attributes: object) -> EventView:
    standard = {
        "specversion": "1.0",
        "id": "evt_1",
        "source": "/jobs",
        "type": "ai.revor.job.failed",
        "time": "2026-05-20T10:00:08.000Z",
        "channel": "linkedin",
        "status": "failed",
        "sequence": "0000000003",
    }
    return EventView(json.dumps({**standard, **attributes, "data": data}).encode())


EVENT = view(
    {
        "metadata": {"deal": 42, "score": 1.5, "tags": ["vip", "spring"], "owner": None},
        "job": {"attempt_count": 2, "items": [{"n": 1}, {"n": 2}]},
        "big": 2**70,
    }
)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('data.metadata.deal > 40 && channel == "linkedin"', True),
        ('data.metadata.deal > 42 && channel == "linkedin"', False),
        ("data.metadata.score >= 1.5", True),
        ('data.metadata["deal"] == 42', True),
        ("data.metadata.deal == 42.0", True),
        ('data.metadata.deal == "42"', False),
        ("data.metadata.owner == null", True),
        ("has(data.metadata.deal) && !has(data.metadata.stage)", True),
        ('data.metadata.tags.exists(tag, tag == "vip")', True),
        ('data.metadata.tags.all(tag, tag.size() > 3) && "spring" in data.metadata.tags', False),
        ("data.job.items.filter(item, item.n > 1).size() == 1", True),
        ("data.job.items.exists_one(item, has(item.n) && item.n == 2)", True),
        ("data.metadata.all(name, name != '')", True),
        ("[1, 2].map(x, x * 2) == [2, 4]", True),
        ('type.startsWith("ai.revor.job.") && type.endsWith("failed") && status.contains("ail")', True),
        (r'sequence.matches("^0+\\d$") && sequence.matches(r"\d{10}")', True),
        ('timestamp(time) > timestamp("2026-05-20T00:00:00Z") && timestamp(time).getHours() == 10', True),
        ('channel in ["linkedin", "email"] ? data.job.attempt_count > 1 : false', True),
        ("data.big > 1000000", True),
        ("/* no comment of CEL */ true", None),
        ("true // a comment", True),
        ('nosuch == "x" || status == "failed"', True),
        ("data.metadata\n  .deal ==\t42", True),
        ("'''a\nb''' == \"a\\nb\" && b'a' == bytes('a')", True),
        ('"data.l.map(x, y.map(z, z))" == "" || true', True),
    ],
)
def test_expressions_see_the_attributes_and_the_data(text: str, result: bool | None) -> None:
    if result is None:
        with pytest.raises(ExpressionRefused, match="line 1, column 1"):
            compile_cel(text)
    else:
        assert compile_cel(text)(EVENT) is result


@pytest.mark.parametrize(
    ("text", "reason", "said"),
    [
        ("data.metadata.stage == 3", "missing", "there is no field 'stage'"),
        ('group == "spring"', "missing", "the event has no group"),
        ("data.metadata.tags[7] == 'a'", "missing", "index out of bounds: 7"),
        ("data.metadata.tags[-1] == 'a'", "missing", "index out of bounds: -1"),
        ('data.metadata.deal > "42"', "wrong_type", "values of different types, such as text and a number"),
        ("data.metadata.owner > 3", "wrong_type", "values of different types, such as text and a number"),
        ("data.metadata.deal", "wrong_type", "it gives a number, not true or false"),
        ("data.metadata", "wrong_type", "it gives an object, not true or false"),
        ("size(3) == 1", "wrong_type", "size takes no such value"),
        ("data.metadata.deal / 0 == 1", "other", "division by zero"),
        ("9223372036854775807 + data.metadata.deal > 0", "other", "overflow"),
        ("timestamp(status) == timestamp(time)", "other", ""),
        ("int(status) == 1", "other", ""),
    ],
)
def test_an_expression_without_a_result_says_why(text: str, reason: str, said: str) -> None:
    with pytest.raises(ExpressionFailed) as failed:
        compile_cel(text)(EVENT)
    assert failed.value.reason == reason
    assert said in str(failed.value)
    assert str(failed.value).isprintable()


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "too_short", "1 to 1,024 characters"),
        ("true || " * 127 + "true ||  ", "too_long", "1 to 1,024 characters"),
        ("1 +", "invalid_expression", "line 1, column 4: it ends too early"),
        ("true &&\n  (channel = 'a')", "invalid_expression", "line 2, column 12: token recognition error at: '= '"),
        ("true true", "invalid_expression", "line 1, column 6: extraneous input 'true'"),
        ("has(channel)", "invalid_expression", "line 1, column 5: invalid argument to has() macro"),
        ("a.all(1, true)", "invalid_expression", "line 1, column 7: argument must be a simple name"),
        ("for == 1", "invalid_expression", "line 1, column 1: reserved identifier: for"),
        (
            'chanel == "a"',
            "unknown_attribute",
            "line 1, column 1: 'chanel' is not an attribute: did you mean 'channel'?",
        ),
        ("previous_status == 'a'", "unknown_attribute", "did you mean 'previousstatus'"),
        ("true && Data.x == 1", "unknown_attribute", "line 1, column 9: 'Data' is not an attribute"),
        ("channel.beginsWith('a')", "invalid_expression", "line 1, column 9: there is no function beginsWith"),
        ("channel.startWith('a')", "invalid_expression", "did you mean startsWith"),
        ("len(channel) > 1", "invalid_expression", "line 1, column 1: there is no function len"),
        ("Event{id: 'a'} == 1", "invalid_expression", "line 1, column 1: messages are not supported"),
        (".channel == 'a'", "invalid_expression", "'.channel' is not supported"),
        ("channel == 'a\0'", "invalid_text", "line 1, column 14: a character that does not print"),
        ("channel == '\ud800'", "invalid_text", "line 1, column 13: a character that does not print"),
        ("(" * 25 + "true" + ")" * 25, "invalid_expression", "line 1, column 25: brackets may be nested 24 deep"),
        ("(" * 600, "invalid_expression", "brackets may be nested 24 deep"),
        (")(", "invalid_expression", "line 1, column 1"),
        ("data.a.all(x, data.b.all(y, true))", "invalid_expression", "column 22: all is used in a macro: one level"),
        ("data.a.all(x, x in data.b.map(y, y))", "invalid_expression", "map is used in a macro"),
        ("data.a.map(x, x).all(y, true)", "invalid_expression", "column 18: all is used on the result of a macro"),
        ("[data.a.map(x, [x, x])][0].all(y, true)", "invalid_expression", "on the result of a macro"),
        ("(true ? data.a.filter(x, x) : []).all(y, true)", "invalid_expression", "on the result of a macro"),
        ("{'a': data.a.map(x, x)}.a.all(y, true)", "invalid_expression", "on the result of a macro"),
        ("size(data.a.map(x, x)).all(y, true)", "invalid_expression", "on the result of a macro"),
        ("channel.matches('(')", "invalid_expression", "line 1, column 17: the regular expression is wrong"),
        ("channel.matches(status)", "invalid_expression", "a literal regular expression is expected"),
        ("channel.matches('a' + status)", "invalid_expression", "a literal regular expression is expected"),
        ("channel.matches(b'a')", "invalid_expression", "not bytes"),
        ("channel.matches()", "invalid_expression", "a literal regular expression is expected"),
        (r"channel.matches(r'\w{100}')", "invalid_expression", "the regular expression is too large"),
        (r"channel.matches('(\\w{10}){10}')", "invalid_expression", "the regular expression is too large"),
        (r"channel.matches(r'[\p{Greek}\W]{9}')", "invalid_expression", "the regular expression is too large"),
        ("channel.matches('((a{100}){100}){100}')", "invalid_expression", "the regular expression is too large"),
    ],
)
def test_a_wrong_expression_is_refused_with_its_place(text: str, code: str, said: str) -> None:
    with pytest.raises(ExpressionRefused) as refused:
        compile_cel(text)
    assert refused.value.code == code
    assert said in refused.value.detail
    assert refused.value.detail.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "data.a.all(x, true) && data.b.all(x, true)",
        "data.a.all(x, has(x.b)) == data.b.all(y, has(y.b))",
        "[data.a.all(x, true)] == [data.b.exists(x, true)]",
        "true ? data.a.all(x, true) : data.b.all(x, true)",
        "data.a[0].b.all(x, true) || [1].all(x, true)",
        "1 in [1].map(x, x)",
        "data.a.all(data, data > 1)",
        '"data.a.all(x, x.all(y, y))".size() > 1',
    ],
)
def test_macros_beside_each_other_are_allowed(text: str) -> None:
    compile_cel(text)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cel, "find_spec", lambda name: None)
    with pytest.raises(ExpressionRefused) as refused:
        compile_cel("true")
    assert refused.value.code == "extra_missing"
    assert "pip install 'revor-relay[cel]'" in refused.value.detail


def test_a_panic_of_the_library_is_a_failure_and_an_interrupt_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panics(argument: Any) -> Any:
        raise PanicException("index out of bounds")

    def interrupted(argument: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(ExpressionFailed, match="index out of bounds"):
        cel._guarded(panics, None)
    with pytest.raises(KeyboardInterrupt):
        cel._guarded(interrupted, None)


# --- nothing takes long

LONG = view(
    {
        "numbers": list(range(4_000)),
        "words": ["aab"] * 1_500,
        "text": "ab" * 8_000,
        "deep": json.loads("[" * 200 + "1" + "]" * 200),
        "objects": [{"a": {"b": [1, 2]}}] * 400,
    }
)
HOSTILE = [
    "data.numbers.all(x, data.numbers == data.numbers)",
    "data.numbers.map(x, x).size() > 0",
    "data.numbers.map(x, data.numbers).size() > 0",
    "data.numbers.filter(x, x in data.numbers).size() > 0",
    "data.numbers.exists(x, x == -1)",
    "data.numbers.exists(x, " + " || ".join(["x == -1"] * 90) + ")",
    "data.words.map(x, " + "+".join(["x"] * 400) + ").size() > 0",
    "data.words.all(x, data.text.contains(x + 'c'))",
    r"data.words.all(x, x.matches('^(a|b)*\\w$'))",
    r"data.words.exists(x, x.matches('(a|b)*a(a|b){30}c'))",
    "data.text.matches('(a|b)*a(a|b){30}c')",
    "data.text.matches('(a|b)*a(a|b){99}c')",
    "data.text.matches('(.*.*.*.*.*.*.*)*c')",
    "data.text.matches('" + "a?" * 200 + "a" * 200 + "')",
    "data.text.matches('(a{40}){40}')",
    "channel.matches('" + "(" * 200 + "a" + ")*" * 200 + "')",
    "channel.matches('" + "[^a]" * 240 + "')",
    "channel.matches(r'" + r"\d" * 100 + "')",
    " || ".join([r"channel.matches(r'\w\w\w\w\w\w')"] * 28),
    "+".join(["data.text"] * 100) + " == ''",
    "+".join(["data.numbers"] * 75) + " == []",
    "(" + "+".join(["data.numbers"] * 60) + ").all(x, x >= 0)",
    "[" + ",".join(["data"] * 200) + "] == [data]",
    "[" + ",".join(["[data]"] * 120) + "].all(x, x == [data])",
    "[" + ",".join("1" * 500) + "].map(x, x).size() > 1",
    "[" + ",".join("1" * 480) + "].all(x, data.numbers[x] == 1)",
    "{" + ",".join(f"{n}: data" for n in range(80)) + "}.all(x, x >= 0)",
    "data.objects.all(x, x == data.objects[0])",
    "data.objects.map(x, [x, x, x, x, x, x, x, x]).size() > 0",
    "data.deep" + "[0]" * 200 + " == 1",
    "data.deep == data.deep",
    "!" * 1_000 + "true",
    "-" * 1_000 + "1 == 1",
    "+".join(["1"] * 500) + " == 500",
    "true ? false : " * 60 + "true",
    "||".join(["a"] * 340),
    "data" + ".a" * 500 + " == 1",
    "data" + "[0]" * 330 + " == 1",
    "(" * 24 + "true" + ")" * 24,
    "size(" * 24 + "'a'" + ")" * 24 + " == 1",
    "string(" * 24 + "1" + ")" * 24 + " == '1'",
    "'" + "\\\\" * 500 + "' == 'a'",
    "9223372036854775807 * 9223372036854775807 == 1",
    "-9223372036854775808 / -1 == 1 || -9223372036854775808 % -1 == 1",
    "uint(-1) == 1u || int(1e300) == 1",
    "timestamp('9999-12-31T23:59:59Z') + duration('9999999h') > timestamp(time)",
    "'é'.size() == 1 && 'é' < 'f' && '\\U0010ffff' > ''",
    "data.numbers[9223372036854775807] == 1",
    "double('nan') == double('nan') || 1.0 / 0.0 > 1.0",
]


def evaluated(text: str, event: EventView) -> object:
    try:
        return compile_cel(text)(event)
    except (ExpressionRefused, ExpressionFailed) as error:
        return error


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_expression_takes_long(text: str) -> None:
    with processor_seconds(0.5):  # a multiple of the limit: the machine may be slow
        evaluated(text, LONG)


def test_every_hostile_expression_fits_a_thread_with_a_small_stack() -> None:
    def run() -> None:
        for text in HOSTILE:
            evaluated(text, LONG)
        done.append(True)

    done: list[bool] = []
    before = threading.stack_size(1024 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert done


def test_what_could_take_long_is_a_failure_that_says_so() -> None:
    error = evaluated("data.numbers.map(x, x).size() > 0", LONG)
    assert isinstance(error, ExpressionFailed)
    assert error.reason == "too_costly"
    assert "more than 25 ms for an event of" in str(error)


@pytest.mark.parametrize("pattern", [r"\w{6}", "[a-z]{300}", r"\b\w{4}\b", "[^a]{450}"])
def test_many_regular_expressions_are_refused_before_they_are_compiled(pattern: str) -> None:
    one = f"channel.matches(r'{pattern}')"
    assert compile_cel(one)(EVENT) in (True, False)
    refused = pytest.raises(ExpressionRefused, match=r"line 1, column .*regular expressions up to here are too large")
    with processor_seconds(0.2), refused:  # compiling all of them takes half a second
        compile_cel(" || ".join([one] * 24))


@pytest.mark.parametrize(
    "value",
    [[[[[[1]]]]] * 2_500, [{"a": {"b": {"c": 1}}}] * 1_500, [{"a": 1}] * 4_000, [[1, "x"]] * 2_500],
    ids=["lists", "deep maps", "maps", "pairs"],
)
def test_lists_and_maps_count_by_what_copying_them_takes(value: object) -> None:
    event = view({"value": value})
    expression = compile_cel(" || ".join(["size(data.value) == 0"] * 38))
    failed = pytest.raises(ExpressionFailed, match="it could take more than 25 ms")  # it took 100
    with processor_seconds(0.05), failed:
        expression(event)


def test_a_text_full_of_commas_and_brackets_makes_no_expression_too_costly() -> None:
    event = view({"metadata": {"deal": 42}, "text": "[{," * 20_000})
    many = " && ".join(["data.metadata.deal > 40", "has(data.metadata.deal)"] * 15)
    assert compile_cel(many)(event) is True


def test_a_long_expression_is_cheap_enough_for_the_largest_event() -> None:
    largest = view({"metadata": {"deal": 42, "tags": ["vip"] * 2_000}, "text": "a" * 50_000})
    assert len(largest.body) > 60_000
    many = " && ".join(["data.metadata.deal > 40", 'channel == "linkedin"', "has(data.metadata.tags)"] * 6)
    assert compile_cel(many)(largest) is True
    assert compile_cel('data.metadata.tags.all(tag, tag == "vip" && tag != "other")')(largest) is True
    assert compile_cel(r'data.text.matches("^[a-z]+$")')(largest) is True


def test_what_expressions_read_of_an_event_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[dict[str, Any]] = []
    library = cel._library()

    class Library:
        compile = staticmethod(library.compile)

        def Context(self, variables: dict[str, Any]) -> Any:
            converted.append(variables)
            return library.Context(variables)

    monkeypatch.setattr(cel, "_library", Library)
    event = view({"metadata": {"deal": 42}, "job": {"id": "a"}})
    for text in ("data.metadata.deal > 1 && status != ''", "has(data.metadata.deal) && status == 'failed'", "true"):
        assert compile_cel(text)(event)
    assert compile_cel("data['metadata'].deal > 1 && !has(data.nosuch)")(event)
    assert compile_cel("data.size() == 2 && data.metadata.size() == 1")(event)
    assert converted == [
        {"status": "failed", "data": {"metadata": {"deal": 42}}},
        {"data": {}},
        {"data": event.data},
    ]


@pytest.mark.parametrize(
    ("pattern", "states"),
    [("", 1), ("abc", 4), ("a{3}b", 5), ("(ab){4}", 9), ("((a{2}){3}){4}", 25), ("a{,7}", 8), ("(", 1), ("{2}", 2)],
)
def test_repetitions_count_as_copies(pattern: str, states: int) -> None:
    assert regex_cost(pattern)[1] == states


_WORDS = st.sampled_from(
    (
        *(
            "data",
            "data.l",
            "channel",
            "x",
            "1",
            '"a"',
            "r'\\d'",
            "true",
            "null",
            "[",
            "]",
            "(",
            ")",
            "{",
            "}",
            ",",
            ":",
        ),
        *(
            ".all(x, ",
            ".map(x, ",
            ".filter(x, ",
            ".exists(",
            ".matches(",
            ".size()",
            "has(",
            "size(",
            "?",
            "+",
            "-",
            "==",
        ),
        *("&&", "||", "!", "in", ".", " ", "\n", "//", "'''", '"', "'", "\\", "\0", "é", "\ud800", "0x", "1e9", "u"),
    )
)


@given(st.lists(_WORDS, max_size=40).map("".join) | st.text(max_size=60))
def test_whatever_is_written_is_compiled_or_refused(text: str) -> None:
    result = evaluated(text, EVENT)
    assert isinstance(result, bool | ExpressionRefused | ExpressionFailed)
    if not isinstance(result, bool):
        str(result).encode()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    )
)
def test_any_data_is_read(data: object) -> None:
    event = EventView(json.dumps({"id": "e", "data": data}).encode())
    assert evaluated("data == data || true", event) is True
    gc.collect(0)
