"""What the notes of an entry may say."""

import orjson

from relay.node.audit import detail_of


def test_notes_are_bounded_and_cannot_control_a_terminal() -> None:
    notes = {"a\x1b": "b\x1b", "n": 1, "big": 1 << 60, "f": 1.5, "none": None, "yes": True, "list": ["\x1b", {1: 2}]}
    assert orjson.loads(detail_of(notes)) == {
        **{"a\ufffd": "b\ufffd", "n": 1, "big": str(1 << 60), "f": 1.5, "none": None, "yes": True},
        "list": ["\ufffd", "{1: 2}"],
    }
    many = orjson.loads(detail_of({str(n): list(range(100)) for n in range(100)}))
    assert len(many) == 20
    assert len(many["0"]) == 20


def test_notes_have_no_secrets_and_recipients_however_deep() -> None:
    notes = {"said": "Bearer abcdefgh", "list": ["a@b.example", {"deep": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}]}
    assert orjson.loads(detail_of(notes)) == {
        "said": "[redacted]",
        "list": ["[redacted]", "{'deep': '[redacted]'}"],
    }
