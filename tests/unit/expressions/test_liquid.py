"""Templates: what they render, where their mistakes are, and that docs/reference/templates.md says so."""

import gc
import re
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.errors import InvalidRequest, NotRenderable
from relay.expressions import liquid, liquid_filters, liquid_parts
from relay.expressions import liquid_limits as limits
from relay.expressions.liquid import compile_template

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs" / "reference" / "templates.md").read_text(encoding="utf-8")
VARIABLES: dict[str, Any] = {
    "event": {"status": "failed", "type": "ai.revor.job.not_found", "time": "2026-05-20T10:00:08.000Z"},
    "metadata": {"deal": 42, "tags": ["a", "b"]},
    "data": {
        "none": None, "yes": True, "float": 2.5, "huge": 2**80, "empty": "", "list": [3, "x", None],
        "objects": [{"n": 1, "k": "b"}, {"n": 2, "k": "a"}, {"k": "c"}], "html": "<b>5 > 4</b>", "lines": "a\r\nb",
    },
}  # fmt: skip


def section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rendered(template: Any, *, strict: bool = False) -> Any:
    return orjson.loads(compile_template(template).render(VARIABLES, strict=strict))


def test_examples_of_the_documentation_are_rendered_as_it_says() -> None:
    rows = re.findall(r"^\| `(.+)` \| `(.*)` \|$", section("Values"), flags=re.MULTILINE)
    assert len(rows) >= 9
    for template, sent in rows:
        assert rendered(orjson.loads(template.replace(r"\|", "|"))) == orjson.loads(sent), template


def test_documentation_has_every_filter_tag_and_directive() -> None:
    first_column = "".join(re.findall(r"^\|([^|]*)\|", section("Filters"), flags=re.MULTILINE))
    filters = set(re.findall(r"`([a-z0-9_]+)`", first_column))
    assert filters - {"filter"} == set(liquid_filters.FILTERS)
    assert set(re.findall(r"`(%[^`]+)`", section("Filters"))) - {"%Y-%m-%d %H:%M"} == set(liquid_filters.DIRECTIVES)
    tags = section("Filters").split("Tags are ")[1].split(". ")[0]
    assert re.findall(r"`(\w+)`", tags) == list(liquid_parts.TAGS)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ data.none }}", None),
        ("{{ data.yes }}", True),
        ("{{ data.float }}", 2.5),
        ("{{ data.list }}", [3, "x", None]),
        ("{{ data.list | first }}", 3),
        (" {{ data.yes }}", " true"),
        ("{{ data.none }}!", "!"),
        ("{{ data.list }}!", "3x!"),
        ("{{ metadata.deal | plus: 1 }}", 43),
        ("{{ metadata.deal | times: 0.5 }}", 21.0),
        ("{{ 'inf' | plus: 1 }}", None),
        ("{{ metadata }}{{ metadata }}", '{"deal":42,"tags":["a","b"]}' * 2),
        ("{{ data.list | json }}", '[3,"x",null]'),
        ("{{ data.none | json }}", "null"),
        ("{{ gone | json }}", "null"),
        ("{{ data.objects | map: 'n' }}", [1, 2, None]),
        ("{{ data.objects | map: 'k' | join: ', ' }}", "b, a, c"),
        ("{{ data.list.size }}{{ data.list.first }}{{ data.list[1] }}{{ data['list'][-1] }}", "33x"),
        ("{{ data.list[data.list.first] }}!", "!"),
        ("{{ metadata.tags | join: ' #' | prepend: '#' }}", "#a #b"),
        ("{{ 'a' | append: data.none | append: metadata.deal }}", "a42"),
        ("{{ 'abc' | slice: 1, 2 }}", "bc"),
        ("{{ data['empty'] | default: 'd' }}{{ data.yes | default: 'd' }}{{ false | default: 'd' }}", "dtrued"),
        ("{{ false | default: 'd', allow_false: true }}", False),
        ("{{ metadata | first }}", {"deal": 42, "tags": ["a", "b"]}),
        ("{% unless data.yes %}a{% else %}b{% endunless %}", "b"),
        ("{% case event.status %}{% when 'failed', 'x' %}1{% else %}2{% endcase %}", "1"),
        ("{% case event.status %}{% when 'a' %}1{% when metadata.deal, event.status, 'failed' %}2{% endcase %}", "2"),
        ("{% case event.status %}{% else %}1{% when 'failed' %}2{% else %}3{% endcase %}", "12"),
        ("{% if false %}a{% elsif data.none %}b{% elsif metadata.deal %}c{% else %}d{% endif %}", "c"),
        ("{% unless data.none %}a{% elsif data.yes %}b{% endunless %}", "a"),
        ("{% unless data.yes %}a{% elsif data.yes %}b{% endunless %}", "b"),
        ("a{% if data.yes %} \n {% endif %}b{% if metadata.gone %}c{% endif %}", "ab"),
        ("{%- if data.list contains 'x' -%} y {%- endif -%}", "y"),
        ("{% if data.html contains '>' and metadata contains 'deal' or data.none contains 'x' %}y{% endif %}", "y"),
        ("{% if data.yes == 1 or data.none == false or data.lines == blank or data.gone >= 1 %}n{% endif %}!", "!"),
        ("{% if data['empty'] == blank and data['empty'] == empty and data.none == data.gone %}y{% endif %}", "y"),
        ("{% if 'a' < 'b' and 2 > 1.5 and 'a' <= 'a' and data.float != 'x' and data.list <= 1 %}n{% endif %}!", "!"),
        ("{% if data.list != empty and metadata.deal > 41.5 %}y{% endif %}", "y"),
        ("{% comment %}{{ data.float }}{% endcomment %}{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("{{ event.status | human_status }}", "failed"),
        ("{{ 'succeeded' | human_status | capitalize }}", "Accepted"),
        ("{{ event.type | human_status }}", "not found"),
        ("{{ 'needs_reconnect' | human_status }}", "needs reconnect"),
        ("{{ event.time | date }}", "2026-05-20 10:00"),
        ("{{ event.time | date: '%-d.%-m.%y %H:%M %Z', 'Europe/Berlin' }}", "20.5.26 12:00 CEST"),
        ("{{ 0 | date: '%Y-%m-%dT%H:%M:%S%z' }}", "1970-01-01T00:00:00+0000"),
        ("{{ 'tomorrow' | date }}", "tomorrow"),
        ("{{ data.none | date }}", ""),
        ("{{ data.yes | date }}", "true"),
        ("{{ -1 | date }}", "-1"),
        ("{{ 'abcdef' | truncate: 6 }}", "abcdef"),
        ("{{ 'abcdef' | truncate: 5 }}", "ab..."),
        ("{{ 'abcdef' | truncate: 5, '…' }}", "abcd…"),
        ("{{ 'abcdef' | truncate: 2 }}", ".."),
        ("{{ data.html | escape }}", "&lt;b&gt;5 &gt; 4&lt;/b&gt;"),
        ("{{ data.html | strip_html }}", "5 > 4"),
        ("{{ 'ä b' | url_encode }}", "%C3%A4+b"),
        ("{{ 'a,b' | split: ',' | last }}", "b"),
        ("{{ data.float | string | upcase }}", "2.5"),
        ("{{ metadata | string }}", '{"deal":42,"tags":["a","b"]}'),
        ({"{{ metadata.deal }}": 1}, {"{{ metadata.deal }}": 1}),
        ([1, None, {"a": ["{{ metadata.deal }}", "{ {"]}], [1, None, {"a": [42, "{ {"]}]),
    ],
)  # fmt: skip
def test_text_is_rendered(template: Any, expected: Any) -> None:
    assert rendered(template) == expected


@pytest.mark.parametrize(
    ("template", "pointer", "named"),
    [
        ("{{ metadata.owner }}", "", "metadata.owner"),
        ({"a/b": ["x {{ metadata.owner.name }}"]}, "/a~1b/0", "metadata.owner"),
        ("{{ metadata.tags[7] }}", "", "metadata.tags[7]"),
        ("{{ evnet.status }}", "", "evnet"),
        ("{{ now }}", "", "now"),
        ("{{ metadata.owner | upcase }}", "", "metadata.owner"),
        ("{{ metadata.owner | plus: 1 }}", "", "metadata.owner"),
        ("{{ 'a' | append: metadata.owner }}", "", "metadata.owner"),
    ],
)
def test_missing_name_is_named_where_it_is_an_error_and_else_empty(template: Any, pointer: str, named: str) -> None:
    with pytest.raises(NotRenderable) as caught:
        rendered(template, strict=True)
    [error] = caught.value.errors
    assert (error.pointer, error.code, error.detail) == (pointer, "missing_name", f"{named} is absent")
    rendered(template)


def test_every_missing_name_of_a_document_is_told_at_once() -> None:
    with pytest.raises(NotRenderable) as caught:
        rendered({"a": "{{ x }}", "b": ["{{ y }}"], "c": "{{ metadata.deal }}"}, strict=True)
    assert [error.pointer for error in caught.value.errors] == ["/a", "/b/0"]
    assert str(caught.value) == "/a: x is absent; /b/0: y is absent"


@pytest.mark.parametrize(
    ("template", "pointer", "detail"),
    [
        ({"a": "x\n  {{ b | nope }}"}, "/a", "there is no filter 'nope'"),
        ({"a": "x\n  {{ b | nope }}"}, "/a", "(line 2, column 10)"),
        ("{{ b | trunctae: 3 }}", "", "did you mean truncate?"),
        ("{{ b | append }}", "", "filter append: missing a required argument"),
        ("{% if b %}", "", "expected tag endif"),
        ("{% fi b %}", "", "there is no tag 'fi': there are if, "),
        ("{% include 'b' %}", "", "there is no tag 'include': templates have no files"),
        ("x {% for one in b %}{% endfor %}", "", "there is no tag 'for': templates have no loops"),
        ("x {% for one in b %}{% endfor %}", "", "(line 1, column 3)"),
        ("{% tablerow one in b %}{% endtablerow %}", "", "map takes a field of each item"),
        ("{% assign a = b %}", "", "templates have no variables: write the value where it is used"),
        ("{% capture a %}{% endcapture %}", "", "templates have no variables"),
        ("x {{ (1..3) | join }}", "", "there are no ranges: name an array of the event (line 1, column 6)"),
        ("{% if b contains (1..3) %}{% endif %}", "", "there are no ranges"),
        ("{% case (1..3) %}{% when 1 %}{% endcase %}", "", "there are no ranges"),
        ("{{ b | join: (1..3) }}", "", "there are no ranges"),
        ("{{ b | sort }}", "", "there is no filter 'sort': there are append, "),
        ("{{ a }}" * 201, "", "at most 200 {{ … }} and {% … %} (line 1, column 1401)"),
        (["{{ a | append: 'b' | append: 'b' }}"] * 112, "/111", "at most 1,000 names, values and signs"),
        ("a {{ b", "", "this {{ has no }} (line 1, column 3)"),
        ("{{ b c }}", "", "(line 1, column 6)"),
        ("{{ }}", "", "nothing between {{ and }}"),
        ("{{ b | }}", "", "expected word"),
        ({"~": {"/": "{{"}}, "/~0/~1", "this {{ has no }}"),
    ],
)
def test_mistake_is_told_with_its_place(template: Any, pointer: str, detail: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compile_template(template)
    [error] = caught.value.errors
    assert (error.pointer, error.code) == (pointer, "invalid_template")
    assert detail in error.detail


def test_template_is_compiled_once_and_old_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CACHED_BYTES", 100_000)
    used = compile_template({"a": "{{ a }}"})
    for number in range(500):
        compile_template(["{{ a }}", number])
        assert compile_template({"a": "{{ a }}"}) is used
    assert 1 < len(liquid._cache.templates) < 100


WORST = {
    "texts": ["{{ a }}"] * 198,
    "outputs": "{{ a }}" * 198,
    "filters": ["{{ a" + " | size" * 90 + " }}"] * 5,
    "arguments": ["{{ a" + " | append: 'b'" * 60 + " }}"] * 4,
    "comparisons": ["{% if a == b " + "or a == b " * 40 + "%}{% endif %}"] * 4,
    "objects": [{}] * 10_000,
    "numbers": [1.5] * 8_000,
    "long": "x" * 32_000,
}


@pytest.mark.parametrize("name", WORST)
def test_memory_of_a_compiled_template_is_estimated(name: str) -> None:
    """The estimate must not be far below what tracemalloc finds."""
    source = orjson.dumps(WORST[name])
    liquid.Template(WORST[name])  # what the first one makes for all
    tracemalloc.start()
    try:
        template = liquid.Template(orjson.loads(source))
        gc.collect()
        found = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert found < 1.5 * template.memory(source)
    assert template.memory(source) < limits.MAX_CACHED_BYTES / 25


LONG = {
    "text": "<a href='x'>&amp; 1 " * 1_000,
    "number": "1" * 4_000,
    "array": ["x", {"a": 1}] * 1_000,
    "object": {f"k{index}": index for index in range(1_000)},
}
ARGUMENTS = {
    **dict.fromkeys(("append", "prepend", "remove", "remove_first", "split", "map"), "'a'"),
    **dict.fromkeys(("replace", "replace_first"), "'a', 'b'"),
    **dict.fromkeys(("at_least", "at_most", "divided_by", "minus", "modulo", "plus", "times", "slice"), "1"),
}


def work_of(template: str, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """The work of a template that names `data`."""
    made: list[liquid_parts.Work] = []

    class Watched(liquid_parts.Work):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(liquid, "Work", Watched)
    with suppress(NotRenderable):
        compile_template(template).render({"data": data}, strict=False)
    return limits.MAX_WORK - made[0].left


@pytest.mark.parametrize(
    "expression",
    [
        *(f"{{{{ data.NAME | {name}: {ARGUMENTS[name]} }}}}" for name in ARGUMENTS),
        *(f"{{{{ data.NAME | {name} }}}}" for name in liquid_filters.FILTERS if name not in ARGUMENTS),
        *(f"{{% if data.NAME {one} data.NAME %}}{{% endif %}}" for one in ("==", "!=", "<", ">=", "contains")),
        "{{ data.NAME }}",
        "{{ data.NAME }}!",
        "{% case data.NAME %}{% when 1 %}{% endcase %}",
        "{% if data.NAME %}{% endif %}",
        "{{ 'a' | append: data.NAME }}",
    ],
)
@pytest.mark.parametrize("name", LONG)
def test_work_of_every_part_grows_with_its_values(name: str, expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = expression.replace("NAME", name)
    long = LONG[name]
    tenth = dict(list(long.items())[:100]) if isinstance(long, dict) else long[: len(long) // 10]
    assert work_of(template, LONG, monkeypatch) > 2 * work_of(template, {name: tenth}, monkeypatch)


def test_work_ends_a_document_and_not_each_of_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_WORK", 10_000)
    template = compile_template(["{{ metadata.deal }}"] * 50)
    with pytest.raises(NotRenderable) as caught:
        template.render(VARIABLES, strict=False)
    first = caught.value.errors[0]
    assert (first.code, "more work than a template may" in first.detail) == ("not_renderable", True)
    assert 1 < int(first.pointer[1:]) < 10


@pytest.mark.parametrize(
    "expression",
    [
        *("data.name | divided_by: data.name", "data.name | slice: data.name", "0 | date: '%Y', data.name"),
        *("data[data.name]", "data.name[data.name].x", "data.names[0][data.name]"),
    ],
)
def test_no_error_quotes_the_data(expression: str) -> None:
    data = {"name": "Ada <ada@example.com>", "names": [{"Ada": "ada@example.com"}, 7, "ada@example.com"]}
    for template in (f"{{{{ {expression} }}}}", f"x {{{{ {expression} }}}}"):
        with pytest.raises(NotRenderable) as caught:
            compile_template(template).render({"data": data}, strict=True)
        assert "ada" not in str(caught.value).lower()
