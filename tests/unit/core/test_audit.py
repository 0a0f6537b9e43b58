"""The audit's chain: what verification finds, and which entry it names."""

from dataclasses import replace

import pytest

from relay.core.access.audit import (
    CUT,
    MAX_FINDINGS,
    START,
    AuditEntry,
    AuditRecord,
    Head,
    Verification,
    is_genuine,
    plain,
    read_head,
    sealed,
    target_of,
)

KEY, OTHER = b"k" * 32, b"o" * 32


def chain_of(count: int, *, key: bytes = KEY, records: dict[int, AuditRecord] | None = None) -> list[AuditEntry]:
    head, entries = START, []
    for number in range(1, count + 1):
        record = (records or {}).get(number) or AuditRecord(at=1000.0 + number, action="x.y", target=f"t{number}")
        entries.append(sealed(record, id=f"aud_{number:03}", after=head, key=key))
        head = head_of(entries[-1])
    return entries


def head_of(entry: AuditEntry) -> Head:
    return Head(entry.number, entry.mac)


def verified(entries: list, kept: Head | None = None) -> Verification:
    verification = Verification(KEY, kept)
    for entry in entries:
        verification.take([entry])
    verification.end()
    return verification


def found(entries: list, kept: Head | None = None) -> list[tuple[str, int | None]]:
    verification = verified(entries, kept)
    assert verification.finding_count == len(verification.findings)
    return [(one.kind, one.number) for one in verification.findings]


def test_an_untouched_chain_verifies():
    entries = chain_of(5)
    verification = verified(entries)
    assert (verification.findings, verification.entry_count) == ([], 5)
    assert verification.head == head_of(entries[-1])


@pytest.mark.parametrize(
    "change",
    [
        {"at": 5.0}, {"action": "x.z"}, {"actor": "eve"}, {"token_id": "tok_1"}, {"target": None}, {"address": "::1"},
        {"result": "refused"}, {"status": 200}, {"times": 2}, {"request_id": "req_1"}, {"ends": 1},
        {"detail": b'{"a":1}'},
    ],
    ids=str,
)  # fmt: skip
def test_a_change_of_any_field_is_found(change):
    entries = chain_of(4)
    entries[1] = replace(entries[1], record=replace(entries[1].record, **change))
    assert found(entries) == [("changed", 2)]


@pytest.mark.parametrize("change", [{"id": "aud_x"}, {"previous": b"x" * 32}, {"mac": b"x" * 32}], ids=str)
def test_a_change_around_the_record_is_found(change):
    entries = chain_of(4)
    assert found([entries[0], replace(entries[1], **change), *entries[2:]]) == [("changed", 2)]


@pytest.mark.parametrize("at", [5, b"", None, "text", float("nan")])
def test_values_of_any_type_are_a_change_and_no_crash(at):
    entries = chain_of(3)
    entries[1] = replace(entries[1], record=replace(entries[1].record, at=at, detail=b"\xff"))
    assert found(entries) == [("changed", 2)]
    assert not is_genuine(replace(entries[0], mac="text"), KEY)  # type: ignore[arg-type]


def test_removed_entries_are_named():
    entries = chain_of(9)
    assert found(entries[:2] + entries[3:]) == [("missing", 3)]
    verification = verified(entries[:2] + entries[6:])
    assert [one.text for one in verification.findings] == [
        "entries 3 to 6 are missing: removed, or lost with the database"
    ]
    assert found(entries[1:]) == [("missing", 1)]
    assert found([entries[0], entries[2], entries[4]]) == [("missing", 2), ("missing", 4)]


def test_renumbered_and_swapped_entries_are_found():
    entries = chain_of(4)
    renumbered = [replace(entry, number=entry.number - 1) for entry in entries[2:]]
    assert found([*entries[:1], *renumbered]) == [("changed", 2), ("changed", 3)]
    swapped = [entries[0], replace(entries[2], number=2), replace(entries[1], number=3), entries[3]]
    assert found(swapped) == [("changed", 2), ("changed", 3)]


def test_an_inserted_entry_is_found():
    entries = chain_of(3)
    forged = sealed(AuditRecord(at=1.0, action="x.y"), id="aud_f", after=head_of(entries[-1]), key=OTHER)
    assert found([*entries, forged]) == [("changed", 4)]
    assert verified([*entries, forged]).head is None


def test_two_histories_are_not_mixed():
    entries = chain_of(3)
    second = chain_of(3, records={2: AuditRecord(at=1.0, action="other.thing")})
    verification = verified([*entries[:2], second[2]])
    assert [one.text for one in verification.findings] == ["entry 2 was replaced: entry 3 follows another one"]


def test_a_chain_forged_with_another_key_is_found():
    assert found(chain_of(2, key=OTHER)) == [("changed", 1), ("changed", 2)]


def test_a_cut_off_end_is_found_by_a_kept_head_only():
    entries = chain_of(5)
    kept = head_of(entries[3])
    assert found(entries, kept) == found(entries[:4], kept) == found(entries[:2]) == []
    verification = verified(entries[:2], kept)
    assert [(one.number, one.text) for one in verification.findings] == [
        (3, "the end is missing after entry 2: the kept head is entry 4")
    ]


def test_a_rewritten_history_is_found_by_a_kept_head():
    """With the key everything can be rewritten, but not what others have noted down."""
    kept = head_of(chain_of(3)[1])
    rewritten = chain_of(3, records={1: AuditRecord(at=1.0, action="other.thing")})
    verification = verified(rewritten, kept)
    assert [one.text for one in verification.findings] == ["entry 2 is not the one whose MAC was kept"]
    assert found(chain_of(3), kept) == []


def test_an_empty_audit_is_a_finding():
    assert found([]) == found([], head_of(chain_of(2)[-1])) == [("empty", None)]
    assert verified([]).head is None


def test_without_the_key_nothing_verifies():
    verification = Verification(None)
    verification.take([*chain_of(2), 3])
    verification.end()
    assert [(one.kind, one.number) for one in verification.findings] == [("key_missing", None)]
    assert (verification.entry_count, verification.head) == (3, None)


def cut(number: int) -> AuditRecord:
    return AuditRecord(at=1.0, action=CUT, times=number)


def test_a_chain_that_retention_has_cut_verifies_from_there():
    entries = chain_of(9, records={6: cut(2), 8: cut(4)})
    assert found(entries[4:]) == found(entries[2:]) == found(entries) == []
    assert found([entries[0], entries[2], *entries[4:]]) == [], "the removal goes on, or was interrupted"
    assert found(entries[6:]) == [("missing", 5)]
    assert [one.text for one in verified(entries[5:]).findings] == [
        "entry 5 is missing: removed, or lost with the database"
    ]
    assert found(entries[4:5] + entries[6:]) == [("missing", 6)]
    assert found(entries[4:], head_of(entries[1])) == [], "what was kept of a removed entry proves nothing"


def test_a_forged_cut_hides_nothing():
    entries = chain_of(5, records={4: cut(2)})
    raised = replace(entries[3], record=cut(3))
    assert found([raised, entries[4]]) == [("changed", 4), ("missing", 1)]
    added = sealed(cut(5), id="aud_f", after=head_of(entries[4]), key=OTHER)
    assert found([*entries[3:], added]) == [("changed", 6), ("missing", 3)]


def test_findings_are_counted_and_the_first_are_listed():
    verification = verified([*range(1, MAX_FINDINGS + 11)])
    assert (verification.finding_count, len(verification.findings)) == (MAX_FINDINGS + 10, MAX_FINDINGS)


def test_a_head_is_read_as_it_is_shown():
    head = head_of(chain_of(3)[-1])
    assert read_head(str(head)) == head


@pytest.mark.parametrize("text", ["", "3", "3:ab", f"-3:{'9b' * 32}", f"3:{'9B' * 32}", f"{'9' * 16}:{'9b' * 32}", "x"])
def test_what_is_no_head_is_refused(text):
    with pytest.raises(ValueError, match="NUMBER:MAC"):
        read_head(text)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("ops", "ops"),
        ("\x1b[2Jops", "\ufffd[2Jops"),
        ("a\u202eb\x9bc\x00\n", "a\ufffdb\ufffdc\ufffd\ufffd"),
        ("\ud800", "\ufffd"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_text_from_outside_cannot_control_a_terminal(given, shown):
    assert plain(given) == shown


def test_a_target_is_no_address():
    assert target_of("sub_1") == "sub_1"
    assert target_of("jane@example.com") == "(an id with @)"
