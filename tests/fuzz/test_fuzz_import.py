"""Fuzzing of imports: every entry is a registration or has a reason, and entries survive a round trip."""

import csv
import io
import json
from typing import Any

import orjson
from hypothesis import strategies as st

from relay.cli.importing.lines import REMARK, Entry, Fault
from relay.cli.importing.report import _piece
from relay.cli.importing.source import Source
from relay.errors import UsageError
from tests.support.fuzz_kit import JSON_TOKENS, JSON_VALUES, TEXTS, fuzzed, mutated, value_or_refusal, whole, written

NAMES = st.sampled_from(["standard input", "jobs.csv", "jobs.jsonl"])
FORMATS = st.sampled_from([None, "csv", "jsonl", "answers"])
ANSWER = {"ok": True, "request_id": "req_1", "item": {"id": "job-1", "status": "queued", "result": None}}
VALID = [
    b'id,source,metadata.deal,metadata,deadline_seconds\r\njob-1,revor,7,"{""a"": 1}",60\r\n"job\n2",,,,\r\n',
    b"\xef\xbb\xbfjob-1\njob-2\n",
    b"id;priority\n# line 3: too long\njob-1;high\n",
    b"\n".join(map(written, [{"id": "job-1", "metadata": {"a": 1}}, "job-2", ANSWER])),
    json.dumps([ANSWER, "job-2"], indent=2).encode(),
    b"HTTP/2 202\r\nnel: {}\r\n\r\n"
    + json.dumps(ANSWER, indent=1).encode()
    + written(ANSWER)
    + b"\nlog "
    + written(ANSWER),
]
TOKENS = [
    *JSON_TOKENS,
    b"\n",
    b"\r",
    b"\r\n",
    b'"',
    b'""',
    b";",
    b"\t",
    b"# line 1: ",
    b"# format: csv\n",
    b"\n{\n",
    b"\n[",
]
INPUTS = mutated(st.sampled_from(VALID), TOKENS) | st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join)


def read(raw: bytes, name: str = "standard input", format: Any = None) -> list[Entry]:
    return list(Source(io.BytesIO(raw), name, format).entries())


@fuzzed(raw=INPUTS | st.binary(max_size=60), name=NAMES, format=FORMATS)
def test_every_entry_is_a_registration_or_has_a_reason(raw: bytes, name: str, format: Any) -> None:
    entries = value_or_refusal(lambda: read(raw, name, format), UsageError) or []
    lines = [entry.line for entry in entries]
    assert lines == sorted(lines)
    assert all(1 <= line <= raw.count(b"\n") + 1 for line in lines)
    for entry in entries:
        assert (entry.body is None) is not (entry.fault is None)
        assert orjson.dumps([entry.body, entry.id, entry.fault and entry.fault.detail])
        assert _piece(entry, Fault(code="x", detail="a\nb")).endswith("\n")


REGISTRATIONS = st.lists(
    st.fixed_dictionaries(
        {"id": TEXTS.map(whole)},
        optional={"source": TEXTS.map(whole), "metadata": st.dictionaries(TEXTS.map(whole), JSON_VALUES, max_size=3)},
    ).map(lambda body: orjson.loads(orjson.dumps(body))),
    max_size=6,
)


@fuzzed(bodies=REGISTRATIONS, end=st.sampled_from([b"\n", b"\r\n", b"\n\n"]), name=NAMES)
def test_json_lines_round_trip(bodies: list[Any], end: bytes, name: str) -> None:
    raw = end.join(map(orjson.dumps, bodies))
    assert [entry.body for entry in read(raw, name, "jsonl")] == bodies
    assert [entry.body for entry in read(raw)] == bodies
    pretty = end.join(json.dumps(body, indent=2).encode() for body in bodies)
    assert [entry.body for entry in read(pretty, name, "answers")] == bodies
    assert [entry.body for entry in read(json.dumps(bodies).encode())] == bodies


@fuzzed(
    bodies=REGISTRATIONS,
    delimiter=st.sampled_from([",", ";", "\t"]),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_csv_round_trips(bodies: list[Any], delimiter: str, end: str, quoting: Any) -> None:
    rows = [_row(body) for body in bodies]
    # NUL is no text, Python 3.11 does not quote a lone carriage return, and our own remarks are passed over.
    rows = [row for row in rows if row[0] and not {"\0", "\r"} & set("".join(row)) and not REMARK.match(row[0])]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(
        [["id", "source", "metadata"], *rows]
    )
    entries = read(out.getvalue().encode())
    assert [entry.fault for entry in entries] == [None] * len(rows)
    assert [_row(entry.body or {}) for entry in entries] == rows
    again = "".join(_piece(entry, Fault(code="x", detail='"')) for entry in entries)
    if entries:
        assert [entry.body for entry in read((entries[0].head + again).encode())] == [entry.body for entry in entries]


def _row(body: dict[str, Any]) -> list[str]:
    metadata = body.get("metadata")
    text = "" if metadata is None else orjson.dumps(metadata).decode()
    return [body["id"].strip(), body.get("source", "").strip(), text]
