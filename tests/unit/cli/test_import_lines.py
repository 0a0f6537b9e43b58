"""Reading imported files: formats, columns, documents, and the reasons for rejected entries."""

import io

import pytest

from relay.cli.jobs.importing import MAX_LINE_BYTES, MAX_RECORD_LINES, Entry, Fault, Input
from relay.errors import UsageError


def read(raw: str | bytes) -> list[Entry]:
    return list(Input(io.BytesIO(raw if isinstance(raw, bytes) else raw.encode()), "jobs.csv").entries())


def bodies(raw: str | bytes) -> list[object]:
    return [entry.found for entry in read(raw)]


def summary(raw: str | bytes) -> list[tuple[int, str | None, str | None]]:
    """The line, id and code of each entry."""
    return [(entry.line, entry.id, entry.found.code if isinstance(entry.found, Fault) else None) for entry in read(raw)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("\n \n", []),
        ("id\n\n", []),
        ("id\na\n", [{"id": "a"}]),
        ("\na\n\n b \nc", [{"id": "a"}, {"id": "b"}, {"id": "c"}]),
        ('id,metadata\na,"{""ok"": true}"\n', [{"id": "a", "metadata": {"ok": True}}]),
        ('"id"\n"a"\n', [{"id": "a"}]),
        ('"a"\n"b"\n', [{"id": "a"}, {"id": "b"}]),
        ('{"id": "a"}\n\n"b"\n', [{"id": "a"}, {"id": "b"}]),
        ('{"ok": true, "item": {"id": "a"}}', [{"ok": True, "item": {"id": "a"}}]),
        ("#1\njob_uuid\n", [{"id": "#1"}, {"id": "job_uuid"}]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_first_line_shows_the_format(text: str, found: list[object], end: str, mark: bytes) -> None:
    assert bodies(mark + text.replace("\n", end).encode()) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,acount\na,b\n", "unknown column 'acount': did you mean account?"),
        ("id,city\na,b\n", "name it metadata.city"),
        ("id,id\na,b\n", "the column 'id' twice"),
        ("id,,source\n", "column 2 of the CSV has no name"),
        ("a,b\nc,d\n", "has no column `id`"),
        ("Job ID\na\n", "Name the column `id`"),
        ('[{"id": "a"}]', "jq -c '.[]'"),
        ("UUIDs\na\n", "Name the column `id`"),
    ],
)
def test_invalid_first_line_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as raised:
        read(text)
    assert said in str(raised.value)


def test_unclosed_quote_rejects_only_its_line() -> None:
    text = 'id,source\n"a,x\nb,x\n"c\nd",x\n"e,x\nf,x\n'
    assert summary(text) == [
        (2, None, "not_csv"),
        (3, "b", None),
        (4, "c\nd", None),
        (6, None, "not_csv"),
        (7, "f", None),
    ]
    many = "".join(f"job-{number}\n" for number in range(3 * MAX_RECORD_LINES))
    assert [code for _, _, code in summary(f'id\n"a\n{many}')] == ["not_csv"] + [None] * 3 * MAX_RECORD_LINES


def test_reason_for_a_rejected_row() -> None:
    text = "id,source,metadata,deadline_seconds\n,revor,,\na,,[1],\nb,,,true\nc,,,1e3\nd,e,,,\n , ,,\nf\n"
    assert summary(text.encode() + b"g\xff,,,\nh\0,,,\ni,,,\n") == [
        (2, None, "missing"),
        (3, "a", "wrong_type"),
        (4, "b", "wrong_type"),
        (5, "c", None),
        (6, "d", "too_long"),
        (8, "f", None),
        (9, None, "not_utf8"),
        (10, None, "not_utf8"),
        (11, "i", None),
    ]


def test_text_among_ids_is_never_read_as_ids() -> None:
    text = 'HTTP/1.1\nnel: {}\n{"ok": true}\na,b\n"c"\nd\n'
    assert [code for _, _, code in summary(text)] == [None, *["not_an_id"] * 4, None]


def test_reason_for_a_rejected_line_of_json() -> None:
    deep = '{"id": "a", "metadata": ' + '{"a": ' * 300 + "1" + "}" * 301
    text = '{"id": "a"}\n{"id": "cut\n5\n[1]\n{}{}\n' + deep + "\n" + '{"a": ' * 100_000 + "\nb"
    assert summary(text) == [
        (1, "a", None),
        (2, None, "not_json"),
        (3, None, "wrong_type"),
        (4, None, "wrong_type"),
        (5, None, "not_json"),
        (6, None, "too_deep"),
        (7, None, "too_complex"),
        (8, None, "not_json"),
    ]


def test_a_quote_takes_no_line_that_cannot_be_read() -> None:
    raw = b'id\n"a\n' + b"x" * 2 * MAX_LINE_BYTES + b'\nb\n"c\n\xff\nd\n'
    assert summary(raw) == [
        (2, None, "not_csv"),
        (3, None, "too_large"),
        (4, "b", None),
        (5, None, "not_csv"),
        (6, None, "not_utf8"),
        (7, "d", None),
    ]
