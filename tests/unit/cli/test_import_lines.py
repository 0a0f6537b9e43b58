"""Reading imported files: formats, columns, documents, and the reasons for rejected entries."""

import csv
import io
from collections.abc import Iterable

import pytest

from relay.cli.importing.answers import answers
from relay.cli.importing.lines import MAX_LINE_BYTES, Entry, Line, csv_rows, infer, json_lines
from relay.cli.importing.source import Source
from relay.errors import UsageError


def lines(text: str) -> Iterable[Line]:
    return iter([Line(number, line) for number, line in enumerate(io.StringIO(text, newline="\n"), 1)])


def rows(text: str) -> list[Entry]:
    return list(csv_rows(iter(lines(text))))


def pasted(text: str) -> tuple[list[Entry], int]:
    others: list[int] = []
    return list(answers(text, others.append)), sum(others)


def summary(entries: list[Entry]) -> list[tuple[int, str | None, str | None]]:
    """The line, id and code of each entry."""
    return [(entry.line, entry.id, entry.fault.code if entry.fault else None) for entry in entries]


@pytest.mark.parametrize(
    ("head", "format"),
    [
        ("", "csv"),
        ("id\na\n", "csv"),
        ("a\nb\n", "csv"),
        ('id,metadata\na,"{""ok"": true}"\n', "csv"),
        ('"id"\n"a"\n', "csv"),
        ('"a"\n"b"\n', "jsonl"),
        ('{"id": "a"}\n{broken\n"b"\n', "jsonl"),
        ('{"id": "a"}', "jsonl"),
        ('\n# line 3: oh\n{"id": "a"}\n', "jsonl"),
        ('{"id": "a"}{"id": "b"}', "answers"),
        ('{\n"ok": true}', "answers"),
        ('{"ok": true}\n{\n"ok": true}\n', "answers"),
        ('{"ok": true}\nHTTP/1.1 202\n', "answers"),
        ('[{"ok"', "answers"),
        ('HTTP/1.1 202\n\n{"ok": true}', "answers"),
        ("# format: jsonl\nnonsense\n", "jsonl"),
    ],
)
def test_format_is_detected(head: str, format: str) -> None:
    assert infer(head) == format


def test_file_name_decides_the_format() -> None:
    assert infer("oh", "jsonl") == "jsonl"
    assert infer("# format: answers\n", "csv") == "answers"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,acount\na,b\n", "unknown column 'acount': did you mean account?"),
        ("id,city\na,b\n", "name it metadata.city"),
        ("id,id\na,b\n", "the column 'id' twice"),
        ("id,,source\n", "column 2 of the CSV has no name"),
        ("a,b\nc,d\n", "has no column `id`"),
        ("Job ID\na\n", "Name the column `id`"),
        ("UUIDs\na\n", "Name the column `id`"),
    ],
)
def test_invalid_first_line_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as raised:
        rows(text)
    assert said in str(raised.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_are_accepted_in_any_order_and_case(delimiter: str) -> None:
    text = "Deadline_Seconds, ID ,metadata.Deal,metadata\n1.5, a ,7,\n,b,,{}\n".replace(",", delimiter)
    assert [entry.body for entry in rows(text)] == [
        {"deadline_seconds": 1.5, "id": "a", "metadata": {"Deal": "7"}},
        {"id": "b", "metadata": {}},
    ]


def test_named_metadata_is_added_to_the_object() -> None:
    (entry,) = rows('id,metadata,metadata.a\nx,"{""a"": 1, ""b"": 2}",3\n')
    assert entry.body == {"id": "x", "metadata": {"a": "3", "b": 2}}


def test_unclosed_quote_rejects_only_its_line() -> None:
    text = 'id,source\n"a,x\nb,x\n"c\nd",x\n"e,x\nf,x\n'
    assert summary(rows(text)) == [
        (2, None, "not_csv"),
        (3, "b", None),
        (4, "c\nd", None),
        (6, None, "not_csv"),
        (7, "f", None),
    ]
    assert [entry.text for entry in rows(text) if entry.fault] == ['"a,x\n', '"e,x\n']


def test_documented_id_is_an_id() -> None:
    assert summary(rows("job_uuid\n")) == [(1, "job_uuid", None)]


def test_reason_for_a_rejected_row() -> None:
    text = "id,source,metadata,deadline_seconds\n,revor,,\na,,[1],\nb,,,true\nc,,,1e3\nd,e,,,\n , ,,\nf\ng\udcff,,,\n"
    assert summary(rows(text)) == [
        (2, None, "missing"),
        (3, "a", "wrong_type"),
        (4, "b", "wrong_type"),
        (5, "c", None),
        (6, "d", "too_long"),
        (8, "f", None),
        (9, "g?", "not_utf8"),
    ]


def test_comments_are_skipped_but_similar_ids_are_not() -> None:
    assert summary(rows("# line 1: oh\n#1\n# line 2\n# line 3: no, not\n# format: csv\n")) == [
        (2, "#1", None),
        (3, "# line 2", None),
    ]


def test_items_and_relay_jobs_are_registrations() -> None:
    text = '{"id": "a", "status": "queued", "priority": 5}\n{"id": "b", "uid": "job_1", "status": "queued"}\n'
    first, second = json_lines(iter(lines(text)))
    assert first.body == {"ok": True, "item": {"id": "a", "status": "queued", "priority": 5}}
    assert second.body == {"id": "b", "uid": "job_1", "status": "queued"}  # the relay refuses it, and names the field


def test_no_part_of_a_broken_document_is_read() -> None:
    text = """{"ok": true, "item": {"id": "a"}}
    {"ok": true, "item": {
       "id": "b",
       "account": {"id": "not-a-job", "status": "queued"},
       [{"id": "neither"}]
{"ok": true, "item": {"id": "c"}}
log {"ok": true, "item": {"id": "cut
log {"ok": true, "item": {"id": "d"}}
["e", "f", {"id": "g"} "h"]
"""
    found, others = pasted(text)
    assert summary(found) == [
        (1, "a", None),
        (2, None, "not_json"),
        (6, "c", None),
        (7, None, "not_json"),
        (8, "d", None),
        (9, "e", None),
        (9, "f", None),
        (9, "g", None),
        (9, None, "not_json"),
    ]
    assert others == 1  # the `log` of line 8 belongs to what is broken
    assert found[1].text.count("\n") == 4


def test_text_between_documents_is_counted_and_never_read_as_ids() -> None:
    text = """$ curl -d '{"account_id": "x"}'
["INFO"] started
[2026-05-20] {"ok": true, "item": {"id": "a"}}
nel: {"max_age": 1}
"lonely"
{"level": "info"}
[]
# line 4: {"ok": true, "item": {"id": "of-a-remark"}}
"""
    found, others = pasted(text)
    assert summary(found) == [(3, "a", None), (6, None, "no_job")]
    assert others == 5


def test_deeply_nested_input_is_rejected() -> None:
    found, _ = pasted('{"ok": ' * 100_000 + '\n{"ok": true, "item": {"id": "a"}}')
    assert summary(found) == [(1, None, "not_json"), (2, "a", None)]
    deep = '{"id": "a", "metadata": ' + '{"a": ' * 300 + "1" + "}" * 301
    assert summary(pasted(deep)[0]) == [(1, None, "too_deep")]


def test_overlong_lines_are_rejected() -> None:
    long = b'{"id": "' + b"x" * 3 * MAX_LINE_BYTES + b'"}\n'
    source = Source(io.BytesIO(b'{"id": "a"}\n' + long + b'{"id": "b"}'), "jobs.jsonl")
    entries = list(source.entries())
    assert summary(entries) == [(1, "a", None), (2, None, "too_large"), (3, "b", None)]
    assert source.bytes_read == len(long) + 23
    assert len(entries[1].text) == MAX_LINE_BYTES + 1


@pytest.mark.parametrize("raw", [b"PK\x03\x04\0\0", "id\na\n".encode("utf-16"), b"i\0d\0\n\0"])
def test_binary_input_is_refused(raw: bytes) -> None:
    with pytest.raises(UsageError, match=r"jobs\.csv is not UTF-8 text. Save a spreadsheet as CSV"):
        Source(io.BytesIO(raw), "jobs.csv")


def test_pasted_input_is_limited_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.cli.importing.source.MAX_PASTE_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="standard input is larger than 1 MiB"):
        list(Source(io.BytesIO(b"[" + b" " * (1 << 20)), "standard input").entries())


def test_spreadsheet_cells_are_trimmed() -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["id", "metadata"], ["a", '{"text": "one\\ntwo, \\"three\\""}']])
    (entry,) = rows(out.getvalue())
    assert entry.body == {"id": "a", "metadata": {"text": 'one\ntwo, "three"'}}
