"""Fuzzing of imports: every entry is a registration or has a reason, and registrations survive a round trip."""

import csv
import io
import json
from typing import Any

import orjson
from hypothesis import strategies as st

from relay.cli.jobs.importing import Entry, Fault, Input
from relay.errors import UsageError
from tests.support.fuzz_kit import JSON_TOKENS, JSON_VALUES, TEXTS, fuzzed, mutated, value_or_refusal, whole, written

ANSWER = {"ok": True, "request_id": "req_1", "item": {"id": "job-1", "status": "queued", "result": None}}
VALID = [
    b'id,source,metadata.deal,metadata,deadline_seconds\r\njob-1,revor,7,"{""a"": 1}",60\r\n"job\n2",,,,\r\n',
    b"\xef\xbb\xbfjob-1\njob-2\n",
    b"id;priority\njob-1;high\n",
    b"\n".join(map(written, [{"id": "job-1", "metadata": {"a": 1}}, "job-2", ANSWER])),
    json.dumps([ANSWER, "job-2"], indent=2).encode(),
]
TOKENS = [
    *JSON_TOKENS,
    *(b"\n", b"\r", b"\r\n", b'"', b'""', b";", b"\t", b"\n{\n", b"\n["),
]
INPUTS = mutated(st.sampled_from(VALID), TOKENS) | st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join)


def read(raw: bytes) -> list[Entry]:
    return list(Input(io.BytesIO(raw), "jobs").entries())


@fuzzed(raw=INPUTS | st.binary(max_size=60))
def test_every_entry_is_a_registration_or_has_a_reason(raw: bytes) -> None:
    entries = value_or_refusal(lambda: read(raw), UsageError) or []
    lines = [entry.line for entry in entries]
    assert lines == sorted(set(lines))
    assert all(1 <= line <= raw.count(b"\n") + 1 for line in lines)
    for entry in entries:
        assert entry.found
        assert orjson.dumps([entry.id, *entry.found] if isinstance(entry.found, Fault) else [entry.id, entry.found])


REGISTRATIONS = st.lists(
    st.fixed_dictionaries(
        {"id": TEXTS.map(whole)},
        optional={"source": TEXTS.map(whole), "metadata": st.dictionaries(TEXTS.map(whole), JSON_VALUES, max_size=3)},
    ).map(lambda body: orjson.loads(orjson.dumps(body))),
    max_size=6,
)


@fuzzed(bodies=REGISTRATIONS, end=st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
def test_json_lines_round_trip(bodies: list[Any], end: bytes) -> None:
    assert [entry.found for entry in read(end.join(map(orjson.dumps, bodies)))] == bodies


@fuzzed(
    bodies=REGISTRATIONS,
    delimiter=st.sampled_from([",", ";", "\t"]),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_csv_round_trips(bodies: list[Any], delimiter: str, end: str, quoting: Any) -> None:
    rows = [_row(body) for body in bodies]
    # NUL is no text, and Python 3.11 does not quote a lone carriage return.
    rows = [row for row in rows if row[0] and not {"\0", "\r"} & set("".join(row))]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(
        [["id", "source", "metadata"], *rows]
    )
    entries = read(out.getvalue().encode())
    assert [_row(entry.found) for entry in entries if not isinstance(entry.found, Fault)] == rows


def _row(body: dict[str, Any]) -> list[str]:
    metadata = body.get("metadata")
    text = "" if metadata is None else orjson.dumps(metadata).decode()
    return [body["id"].strip(), body.get("source", "").strip(), text]
