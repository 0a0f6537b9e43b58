"""Hostile templates and hostile data: each is refused, stopped, or ends within the limits. Nothing takes long or grows.

The whole table runs in a process with limits on memory and CPU time, so that a hole ends the test and not the machine.
"""

import json
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from relay.errors import InvalidRequest, NotRenderable
from relay.expressions import liquid
from relay.expressions import liquid_limits as limits

ROOT = Path(__file__).resolve().parents[3]
MEMORY_BYTES = 192 * 1024 * 1024
CPU_SECONDS = 60

REFUSED, STOPPED, ENDS = "refused", "stopped", "ends"

TEXT = "<a href='x'>" * 5_000
DATA: dict[str, Any] = {
    "text": TEXT,
    "wide": "\U0001f600" * 15_000,
    "spaces": " " * 60_000,
    "digits": "9" * 60_000,
    "lines": "\r\n" * 30_000,
    "entities": "&" * 60_000,
    "open": "<" * 60_000,
    "percent": "%" * 60_000,
    "numbers": list(range(5_000)),
    "texts": ["x" * 10] * 2_000,
    "objects": [{"a": index % 7, "b": None} for index in range(1_500)],
    "same": [{"a": index % 7, "b": None} for index in range(1_500)],
    "mixed": [1, "a", None, 2.5, True, {"a": 1}, [1]] * 100,
    "nested": [[[[[1] * 5] * 5] * 5] * 5] * 5,
    "deep": json.loads("[" * 200 + "]" * 200),
    "object": {"size": [1], "first": {"a": 1}, "last": "x", "__class__": 1, "items": 2, "": 3},
    "huge": 10**307,
    "tiny": 5e-324,
    "big": 1.7e308,
    "nul": "\0\ud800",
    "zone": "../../../etc/passwd",
    "one": 1,
    "none": None,
}
LOOP = "{% for i in (1..5000) %}"
END = "{% endfor %}"


def loops() -> list[tuple[str, Any]]:
    nest = [f"{{% for {name} in (1..100) %}}" for name in "abcdefghij"]
    return [
        (STOPPED, "{% for i in (1..999999999) %}{% endfor %}"),
        (STOPPED, "{% for i in (1..5001) %}{% endfor %}"),
        (STOPPED, "{% for i in (-999999999..5) %}{% endfor %}"),
        (STOPPED, "{% for i in (1..data.huge) %}x{% endfor %}"),
        (STOPPED, "{% for i in (data.one..data.digits) %}x{% endfor %}"),
        (STOPPED, "{% for i in (1..999999999) reversed %}{% break %}{% endfor %}"),
        (STOPPED, "{% for i in (1..999999999) limit: 1 %}{% endfor %}"),
        (STOPPED, "{% for i in (1..999999999) offset: 999999990 %}{% endfor %}"),
        (ENDS, "{% for i in data.numbers offset: 4990 reversed %}{{ i }}{% endfor %}"),
        (STOPPED, "{% for i in data.numbers limit: -5 %}{{ i }}{% endfor %}"),
        (STOPPED, "{% for i in data.numbers %}{% for j in data.numbers %}{% endfor %}{% endfor %}"),
        *((STOPPED, "".join(nest[:depth]) + "x" + END * depth) for depth in range(2, 11)),
        (REFUSED, "{% for i in a %}" * 11 + END * 11),
        (REFUSED, "{% if a %}" * 200 + "{% endif %}" * 200),
        (REFUSED, "{% for i in a %}" * 1_500),
        (STOPPED, LOOP + END + LOOP + END),
        (STOPPED, (LOOP + END) * 900),
        (STOPPED, {str(index): "{% for i in (1..100) %}{% endfor %}" for index in range(100)}),
        (STOPPED, LOOP + "{{ i }}" * 100 + END),
        (STOPPED, LOOP + "{% if 1 %}{% endif %}" * 1_000 + END),
        (STOPPED, LOOP + "{% unless 1 %}x{% endunless %}" * 800 + END),
        (STOPPED, LOOP + "{% assign a = 1 %}" * 1_000 + END),
        (STOPPED, LOOP + "{% comment %}x{% endcomment %}" * 500 + END),
        (STOPPED, LOOP + "{% case 1 %}{% when 1 %}{% endcase %}" * 500 + END),
        (STOPPED, LOOP + "x" * 25_000 + END),
        (STOPPED, LOOP + "{% raw %}" + "x" * 25_000 + "{% endraw %}" + END),
        (STOPPED, LOOP + "{% if " + "1 == 2 or " * 45 + "true %}{% endif %}" + END),
        (STOPPED, LOOP + "{% if a" + ".b" * 400 + " %}{% endif %}" + END),
        (STOPPED, LOOP + "{{ data.object" + ".first" * 100 + " }}" + END),
        (STOPPED, LOOP + "{% capture a %}{{ data.text }}{% endcapture %}" + END),
        (STOPPED, LOOP + "{% assign a = data.text | append: i %}" + END),
        (STOPPED, LOOP + "{% for j in data" + ".a" * 450 + " %}{% endfor %}" + END),
        (STOPPED, "{% case 1 %}{% when " + ",".join(["1"] * 400) + " %}" * 1 + "{{ data.text }}{% endcase %}"),
        (
            STOPPED,
            ("{% case 1 %}{% when " + ",".join(["1"] * 300) + " %}") * 9 + "x" + "{% endcase %}" * 9,
        ),
        (STOPPED, "{% break %}"),
        (STOPPED, "{% continue %}"),
        (STOPPED, "x {% if true %}{% break %}{% endif %}"),
        (ENDS, LOOP + "{% break %}" + END),
        (ENDS, LOOP + "{% continue %}" + END),
    ]


def growth() -> list[tuple[str, Any]]:
    doubled = "{% assign a = a | append: a %}"
    many = "{% for i in (1..60) %}"
    return [
        (STOPPED, "{% assign a = data.text %}" + doubled * 30 + "{{ a }}"),
        (STOPPED, "{% assign a = 'x' %}" + many + doubled + END),
        (STOPPED, "{% assign a = 'x' %}" + many + "{% assign a = a | prepend: a %}" + END),
        (STOPPED, "{% assign a = 'x' %}" + many + "{% assign a = a | replace: 'x', 'xx' %}" + END),
        (STOPPED, "{% assign a = 'xxxx' %}" + many + "{% assign a = a | replace: '', a %}" + END),
        (STOPPED, "{% assign a = '<' %}" + many + "{% assign a = a | escape %}{% assign a = a | append: a %}" + END),
        (STOPPED, "{% assign a = '\n' %}" + many + "{% assign a = a | newline_to_br | append: a %}" + END),
        (STOPPED, "{% assign a = data.wide %}" + many + "{% assign a = a | url_encode %}" + END),
        (STOPPED, "{% assign a = data.text %}" + many + "{% assign a = a | base64_encode %}" + END),
        (STOPPED, "{% assign a = data.text %}" + many + "{% assign a = a | json %}" + END),
        (STOPPED, "{% assign a = data.numbers %}" + many + "{% assign a = a | concat: a %}" + END),
        (STOPPED, "{% assign a = data.texts %}" + many + "{% assign a = a | concat: a | concat: a %}" + END),
        (STOPPED, "{% assign a = 'xx' | split: '' %}" + many + "{% assign a = a | join: a | split: '' %}" + END),
        (STOPPED, "{{ data.texts | join: data.text }}"),
        (STOPPED, "{{ data.text | replace: 'a', data.text }}"),
        (STOPPED, "{{ data.text | replace: '', data.text }}"),
        (STOPPED, "{{ data.wide | split: '' | join: data.wide }}"),
        (STOPPED, "{% assign a = 2 %}" + many + "{% assign a = a | times: a %}" + END),
        (STOPPED, "{% assign a = data.huge %}" + many + "{% assign a = a | times: data.huge %}" + END),
        (STOPPED, "{{ data.digits | times: data.digits }}"),
        (STOPPED, "{{ data.digits | plus: 1 }}"),
        (STOPPED, "{{ data.digits | abs }}"),
        (STOPPED, "{% capture a %}{{ data.text }}{% endcapture %}" * 5 + "{{ a }}{{ a }}"),
        (STOPPED, "{{ data.text }}" * 10),
        (STOPPED, {str(index): "{{ data }}" for index in range(20)}),
        (STOPPED, {str(index): "{{ data.text }}" for index in range(20)}),
        (STOPPED, ["{{ data.numbers }}"] * 60),
        (STOPPED, "".join(f"{{% assign a{index} = data.text | append: '{index}' %}}" for index in range(60))),
        (STOPPED, "".join(f"{{% capture a{index} %}}{{{{ data.text }}}}{{% endcapture %}}" for index in range(60))),
        (STOPPED, "".join(f"{{% assign a{index} = data.text | split: '' %}}" for index in range(60))),
        (STOPPED, "".join(f"{{% assign a{index} = data %}}" for index in range(60))),
        (STOPPED, "{{ (1..5000) | join: data.text }}"),
        (STOPPED, "{{ (1..999999999) | join }}"),
        (STOPPED, "{{ (1..999999999) | reverse }}"),
        (STOPPED, "{{ (1..999999999) | sort }}"),
        (STOPPED, "{{ (1..999999999) | size }}"),
        (STOPPED, "{{ (1..999999999) | slice: 0, 999999999 }}"),
        (STOPPED, "{{ data.one | concat: (1..999999999) }}"),
        (STOPPED, "{% assign a = (1..999999999) %}{{ a.size }}"),
        (STOPPED, "{% if (1..999999999) contains 'x' %}y{% endif %}"),
        (STOPPED, "{% if (1..999999999) == data.numbers %}y{% endif %}"),
        (STOPPED, "{% case (1..999999999) %}{% when 1 %}{% endcase %}"),
        (STOPPED, "{{ 'x' | append: (1..999999999) }}"),
        (ENDS, "{{ 'x' | slice: -999999999999999999999, 999999999999999999999 }}"),
        (ENDS, "{{ data.text | truncate: 99999999999999999 }}"),
        (ENDS, "{{ 'x' | truncate: -5, data.text }}"),
        (ENDS, "{{ data.text | truncate: 5, data.text }}"),
        (STOPPED, LOOP + "{{ data.text | truncatewords: 1, data.text }}" + END),
        (ENDS, "{{ 1.5 | round: 999999999 }}"),
        (ENDS, "{{ data.big | round: -999999999 }}"),
        (ENDS, "{{ data.tiny | times: data.big }}"),
        (ENDS, "{{ data.big | times: data.big }}"),
        (ENDS, "{{ 'nan' | plus: 1 }}"),
        (ENDS, "{{ '-inf' | plus: 1 }}"),
        (STOPPED, "{{ 'inf' | ceil }}"),
        (STOPPED, "{{ 'nan' | floor }}"),
        (STOPPED, "{{ 'inf' | round }}"),
        (STOPPED, "{{ 'inf' | modulo: 2 }}"),
        (STOPPED, "{{ data.huge | divided_by: 0 }}"),
        (STOPPED, "{{ data.one | divided_by: 0.0 }}"),
        (STOPPED, "{{ data.one | modulo: 0 }}"),
        (STOPPED, "{{ '1e999999999' | ceil }}"),
    ]


def work() -> list[tuple[str, Any]]:
    slow = ("uniq", "sort", "sort_natural", "reverse", "compact", "sum", "join", "json", "size", "first", "string")
    texts = ("escape", "escape_once", "strip_html", "url_decode", "squish", "downcase", "strip", "newline_to_br")
    return [
        *((STOPPED, LOOP + f"{{% assign a = data.numbers | {name} %}}" + END) for name in slow),
        *((STOPPED, LOOP + f"{{% assign a = data.text | {name} %}}" + END) for name in texts),
        *((STOPPED, LOOP + f"{{% assign a = data.objects | {name}: 'a', 3 %}}" + END) for name in ("where", "reject")),
        *((STOPPED, LOOP + f"{{% assign a = data.objects | {name}: 'a', 9 %}}" + END) for name in ("find", "has")),
        *((ENDS, f"{{{{ data.{name} | strip_html | size }}}}") for name in ("open", "entities", "text")),
        *((ENDS, f"{{{{ data.{name} | squish | size }}}}") for name in ("spaces", "lines", "nul")),
        *((ENDS, f"{{{{ data.{name} | newline_to_br | size }}}}") for name in ("lines", "spaces")),
        (STOPPED, "{{ data.entities | escape_once | size }}"),
        (ENDS, "{{ data.percent | url_decode | size }}"),
        (STOPPED, "{{ data.numbers | uniq | size }}"),
        (ENDS, "{{ data.mixed | uniq | size }}"),
        (STOPPED, "{{ data.mixed | sort }}"),
        (ENDS, "{{ data.mixed | sort_natural | size }}"),
        (STOPPED, "{{ data.mixed | sum }}"),
        (ENDS, "{{ data.mixed | map: 'a' | size }}"),
        (STOPPED, "{{ data.mixed | where: 'a', 1 | size }}"),
        (ENDS, "{{ data.nested | concat: data.nested | size }}"),
        (ENDS, "{{ data.nested | join | size }}"),
        (ENDS, "{{ data.deep | join | size }}"),
        (ENDS, "{{ data.deep | json | size }}"),
        (ENDS, "{{ data.deep }}"),
        (STOPPED, LOOP + "{% if data.text contains 'zzz' %}{% endif %}" * 40 + END),
        (STOPPED, LOOP + "{% if data == data.objects %}{% endif %}" * 40 + END),
        (STOPPED, LOOP + "{% case data.same %}{% when " + "data.objects, " * 60 + "1 %}{% endcase %}" + END),
        (STOPPED, LOOP + "{% if data.same == data.objects %}{% endif %}" * 40 + END),
        (ENDS, "{{ data.spaces | date: '%Y' | size }}"),
        (ENDS, "{{ data.digits | date: '%Y' | size }}"),
        (ENDS, "{{ data.huge | date: '%Y' }}"),
        (STOPPED, "{{ 0 | date: '%100000000d' }}"),
        (STOPPED, "{{ 0 | date: '%_9999999Y' }}"),
        (STOPPED, "{{ 0 | date: data.percent }}"),
        (STOPPED, "{{ 0 | date: '%c' }}"),
        (STOPPED, "{{ 0 | date: '%' }}"),
        (STOPPED, "{{ 0 | date: data.nul }}"),
        (STOPPED, "{{ 0 | date: '%Y', data.zone }}"),
        (STOPPED, "{{ 0 | date: '%Y', '/etc/passwd' }}"),
        (STOPPED, "{{ 0 | date: '%Y', 'Europe' }}"),
        (STOPPED, "{{ 0 | date: '%Y', data.text }}"),
        (STOPPED, "{{ data.text | base64_decode }}"),
        (STOPPED, "{{ 'gIA=' | base64_decode }}"),
        (ENDS, "{{ data.nul | json }}"),
        (ENDS, "{{ data.nul | url_encode }}"),
        (ENDS, "{{ data.nul | escape | upcase | append: data.nul }}"),
        (STOPPED, "{{ data.nul | base64_encode }}"),
    ]


def parsing() -> list[tuple[str, Any]]:
    full = limits.MAX_TAG_CHARACTERS - 10
    return [
        (REFUSED, "{{" * 16_000),
        (REFUSED, "{%" * 16_000),
        (REFUSED, "{{" + " " * 30_000),
        (REFUSED, "{{" + " " * 30_000 + "}}"),
        (REFUSED, "{{" + " " * full + "}}"),
        (REFUSED, "{{ a" + " " * 30_000 + "}}"),
        (REFUSED, "{{-" + "-" * full + "}}"),
        (REFUSED, "{% raw %}" * 3_500),
        (REFUSED, "{% doc %}" * 3_500),
        (REFUSED, "{% comment %}" * 2_500),
        (REFUSED, "{% comment %}{{ a {% endcomment %}"),
        (REFUSED, "{% raw %}{{ x" + "{% endra %}" * 2_000),
        (REFUSED, ("{{ " + "(" * full + " }}") * 30),
        (REFUSED, ("{{ " + "[" * full + " }}") * 30),
        (REFUSED, ("{{ " + "['" * (full // 2) + " }}") * 30),
        (REFUSED, ("{{ '" + "a" * full + " }}") * 30),
        (REFUSED, ("{{ " + "a[" * (full // 2) + " }}") * 30),
        (REFUSED, "{{ " + "a[" * (full // 3) + "b" + "]" * (full // 3) + " }}"),
        (REFUSED, "{% if " + "a or " * (full // 5) + "b %}{% endif %}"),
        (REFUSED, "{% if " + "(" * (full // 2) + " %}{% endif %}"),
        (REFUSED, "{{ " + "1" * 900 + "." * 20 + " }}"),
        (REFUSED, "{{ a " + "| append: " * 90 + " }}"),
        (ENDS, "{{ data.one " + "| plus: 1 " * 90 + " }}"),
        (ENDS, ("{{ a" + ".b" * (full // 2) + " }}") * 20),
        (REFUSED, "{% include '/etc/passwd' %}"),
        (REFUSED, "{% render 'x' %}"),
        (REFUSED, "{% layout 'x' %}"),
        (REFUSED, "{% extends 'x' %}"),
        (REFUSED, "{% macro x %}{% endmacro %}"),
        (REFUSED, "{% tablerow i in (1..9) %}{% endtablerow %}"),
        (REFUSED, "{% cycle 'a', 'b' %}"),
        (REFUSED, "{% increment a %}"),
        (REFUSED, "{% liquid\nassign a = 1 %}"),
        (REFUSED, "{% python import os %}"),
        (REFUSED, "{{ 'x' | eval }}"),
        (REFUSED, "{{ 'x' | file }}"),
        (REFUSED, "{{ 'x' | safe }}"),
        (REFUSED, "{{ a | append: 'b', 'c' }}"),
        (REFUSED, "{{ a | append: arg: 'b', other: 1 }}"),
        (REFUSED, "x" * 40_000),
        (REFUSED, ["{{ a }}"] * 501),
        (REFUSED, json.loads("[" * 21 + '"{{ a }}"' + "]" * 21)),
        (REFUSED, json.loads("[" * 120 + '"{{ a }}"' + "]" * 120)),
        (ENDS, "{{ data.__class__ }}"),
        (ENDS, "{{ data.object.__class__ }}"),
        (ENDS, "{{ data.text.__class__.__mro__ }}"),
        (ENDS, "{{ data['__init__']['__globals__'] }}"),
        (ENDS, "{{ data.object.size.first.last }}"),
        (ENDS, "{{ data.object.items }}"),
        (ENDS, "{{ now }}{{ today }}{{ partial }}"),
        (ENDS, "{{ forloop }}"),
        (STOPPED, "{% for i in (1..3) %}{{ forloop | json }}" + END),
        (ENDS, "{% for i in (1..3) %}{% assign f = forloop %}{{ f.parentloop.parentloop.x }}" + END),
        (ENDS, "{% assign event = 'mine' %}{{ event }}{{ data.one }}"),
        (ENDS, "{{ empty }}{{ blank }}{{ nil }}{{ true }}"),
        (ENDS, "{{ [data.none] }}{{ ['data']['one'] }}"),
        (REFUSED, "{{ [1] }}"),
    ]


TEMPLATES = [*loops(), *growth(), *work(), *parsing()]


def outcome_of(template: Any) -> str:
    """What becomes of a template: `refused`, `stopped`, `ends`; anything else is a hole. A name that is missing where
    that is an error says nothing."""
    try:
        compiled = liquid.compile_template(template)
    except InvalidRequest as error:
        return REFUSED if 1 <= len(error.errors) <= limits.MAX_ERRORS else "refused with too many errors"
    outcomes = set()
    for strict in (False, True):
        try:
            body = compiled.render({"data": DATA}, strict=strict)
        except NotRenderable as error:
            bounded = len(error.errors) <= limits.MAX_ERRORS and all(len(one.detail) <= 300 for one in error.errors)
            if not strict or {one.code for one in error.errors} != {"missing_name"}:
                outcomes.add(STOPPED if bounded else "stopped with too long errors")
        else:
            outcomes.add(ENDS if len(body) <= limits.MAX_OUTPUT else "too large")
    return " and ".join(sorted(outcomes))


def run_confined() -> None:
    """Runs the table, and prints each template that did not come out as expected."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * os.sysconf("SC_PAGESIZE") + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    wrong = []
    for expected, template in TEMPLATES:
        try:
            outcome = outcome_of(template)
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        if outcome != expected:
            wrong.append([repr(template)[:120], expected, outcome[:200]])
    print(json.dumps(wrong))


def test_200_hostile_templates_are_stopped_within_bounded_time_and_memory() -> None:
    assert len(TEMPLATES) >= 200
    assert min(Counter(expected for expected, _ in TEMPLATES).values()) >= 20
    ran = subprocess.run([sys.executable, __file__], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout) == []


if __name__ == "__main__":
    run_confined()
