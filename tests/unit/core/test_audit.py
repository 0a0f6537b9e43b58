"""The audit's chains: what verification finds, and which entry it names."""

from dataclasses import replace

import orjson
import pytest

from relay.core.audit import (
    ANCHOR,
    FIRST,
    MAX_FINDINGS,
    START,
    AuditEntry,
    AuditKey,
    AuditRecord,
    ChainCheck,
    Cut,
    Head,
    Seen,
    Verification,
    anchor_detail,
    derived_key,
    detail_of,
    plain,
    sealed,
    signed_cut,
    target_of,
)

KEY = derived_key("0a0b0c0d", b"k" * 32)
KEYS = {KEY.id: KEY.secret}
OTHER = derived_key("01020304", b"o" * 32)


def chain_of(count: int, name: str = "a", *, key: AuditKey = KEY, records: dict[int, AuditRecord] | None = None):
    head, entries = Head(chain=name, number=0, mac=START), []
    for number in range(FIRST, count + FIRST):
        record = (records or {}).get(number) or AuditRecord(at=1000.0 + number, action="x.y", target=f"t{number}")
        entry = sealed(record, id=f"aud_{name}{number:03}", head=head, key=key)
        head = head_of(entry)
        entries.append(entry)
    return entries


def head_of(entry: AuditEntry) -> Head:
    return Head(chain=entry.chain, number=entry.number, mac=entry.mac)


def verified(*chains: list, seen: tuple[Seen, ...] = (), cuts: dict[str, Cut] | None = None, keys=KEYS) -> Verification:
    verification = Verification(keys, seen)
    for entries in chains:
        name = next(entry.chain for entry in entries if isinstance(entry, AuditEntry))
        verification.begin(name, (cuts or {}).get(name))
        verification.take(name, entries)
    verification.end()
    return verification


def found(*chains: list, **options) -> list[tuple[str, str | None, int | None]]:
    verification = verified(*chains, **options)
    assert verification.finding_count == len(verification.findings)
    return [(one.kind, one.chain, one.number) for one in verification.findings]


def test_an_untouched_chain_verifies():
    entries = chain_of(5)
    verification = verified(entries)
    assert (verification.findings, verification.entry_count, verification.chain_count) == ([], 5, 1)
    assert verification.heads == [head_of(entries[-1])]


@pytest.mark.parametrize(
    "change",
    [
        {"at": 5.0}, {"action": "x.z"}, {"actor": "eve"}, {"token_id": "tok_1"}, {"target": None}, {"address": "::1"},
        {"result": "refused"}, {"status": 200}, {"count": 2}, {"request_id": "req_1"}, {"ends": 1},
        {"detail": b'{"a":1}'},
    ],
    ids=str,
)  # fmt: skip
def test_a_change_of_any_field_is_found(change):
    entries = chain_of(4)
    entries[1] = replace(entries[1], record=replace(entries[1].record, **change))
    assert found(entries) == [("changed", "a", 2)]


@pytest.mark.parametrize("change", [{"id": "aud_x"}, {"previous": b"x" * 32}, {"chain": "b"}], ids=str)
def test_a_change_around_the_record_is_found(change):
    entries = chain_of(4)
    assert found([entries[0], replace(entries[1], **change), *entries[2:]]) == [("changed", "a", 2)]


def test_a_replaced_mac_is_found():
    entries = chain_of(3)
    entries[1] = replace(entries[1], mac=b"x" * 32)
    assert found(entries) == [("changed", "a", 2)]


@pytest.mark.parametrize("at", [5, b"", None, "text", float("nan")])
def test_values_of_any_type_are_a_change_and_no_crash(at):
    entries = chain_of(3)
    entries[1] = replace(entries[1], record=replace(entries[1].record, at=at, detail=b"\xff"))
    assert found(entries) == [("changed", "a", 2)]


def test_removed_entries_are_named():
    entries = chain_of(9)
    assert found(entries[:2] + entries[3:]) == [("missing", "a", 3)]
    verification = verified(entries[:2] + entries[6:])
    assert [one.text for one in verification.findings] == [
        "chain a: entries 3 to 6 are missing: removed, or lost with the database"
    ]
    assert found(entries[1:]) == [("missing", "a", 1)]


def test_an_entry_renumbered_into_a_gap_is_found():
    entries = chain_of(4)
    renumbered = [replace(entry, number=entry.number - 1) for entry in entries[2:]]
    assert found([*entries[:1], *renumbered]) == [("moved", "a", 2), ("moved", "a", 3)]


def test_reordered_entries_are_named_with_their_places():
    entries = chain_of(4)
    swapped = [entries[0], replace(entries[2], number=2), replace(entries[1], number=3), entries[3]]
    verification = verified(swapped)
    assert [one.text for one in verification.findings] == [
        "chain a: entry 2 holds what was entry 3: the entries were reordered",
        "chain a: entry 3 holds what was entry 2: the entries were reordered",
    ]


def test_an_inserted_entry_is_found():
    entries = chain_of(3)
    forged = sealed(
        AuditRecord(at=1.0, action="x.y"), id="aud_f", head=head_of(entries[-1]), key=replace(OTHER, id=KEY.id)
    )
    assert found([*entries, forged]) == [("changed", "a", 4)]
    assert verified([*entries, forged]).heads == []
    assert found([*entries, entries[1]]) == [("changed", "a", 2)]


def test_an_entry_of_another_chain_does_not_verify():
    entries, others = chain_of(3), chain_of(3, "b")
    assert found([entries[0], replace(others[1], chain="a"), entries[2]]) == [("changed", "a", 2)]


def test_two_histories_of_one_chain_are_not_mixed():
    entries = chain_of(3)
    second = chain_of(3, records={2: AuditRecord(at=1.0, action="other.thing")})
    assert found([*entries[:2], second[2]]) == [("changed", "a", 2)]


def test_a_forged_chain_is_found():
    assert found(chain_of(2, key=replace(OTHER, id=KEY.id))) == [("changed", "a", 1), ("changed", "a", 2)]
    assert found(chain_of(1, key=OTHER)) == [("key_missing", "a", 1)]


def test_entries_of_a_rotated_key_verify_with_it():
    entries = chain_of(2)
    later = sealed(AuditRecord(at=2.0, action="x.y"), id="aud_l", head=head_of(entries[-1]), key=OTHER)
    assert found([*entries, later], keys={**KEYS, OTHER.id: OTHER.secret}) == []
    assert found([*entries, later], keys={OTHER.id: OTHER.secret}) == [("key_missing", "a", 1), ("key_missing", "a", 2)]


def test_an_unreadable_entry_is_named():
    entries = chain_of(3)
    assert found([entries[0], 2, entries[2]]) == [("unreadable", "a", 2)]
    assert found([entries[0], entries[1], entries[2], -1]) == [("unreadable", "a", -1)]


def anchoring(*heads: Head, name: str = "b") -> list[AuditEntry]:
    return chain_of(1, name, records={1: AuditRecord(at=1.0, action=ANCHOR, detail=anchor_detail(heads))})


def test_a_cut_off_end_is_found_by_anchors():
    entries = chain_of(5)
    anchor = anchoring(head_of(entries[3]))
    assert found(entries, anchor) == found(anchor, entries) == []
    assert found(entries[:4], anchor) == []
    verification = verified(entries[:2], anchor)
    assert [one.text for one in verification.findings] == [
        "chain a: the end is missing after entry 2: entry 1 of chain b saw entry 4"
    ]
    assert verification.findings[0].number == 3


def test_a_missing_chain_is_found_by_anchors():
    assert found(anchoring(head_of(chain_of(2)[-1]))) == [("truncated", "a", 1)]


def test_a_forged_anchor_claims_nothing():
    anchor = anchoring(head_of(chain_of(2)[-1]))
    forged = [replace(anchor[0], record=replace(anchor[0].record, detail=orjson.dumps({"heads": {}})))]
    assert found(forged) == [("changed", "b", 1)]


def test_a_chain_that_grew_meanwhile_is_read_on():
    entries = chain_of(4)
    verification = Verification(KEYS, [Seen(head=Head(chain="c", number=1, mac=b""), by="the running node")])
    verification.begin("a", None)
    verification.take("a", entries[:2])
    verification.begin("b", None)
    verification.take("b", anchoring(head_of(entries[3])))
    assert verification.behind() == {"a": 2, "c": None}
    verification.take("a", entries[2:])
    assert verification.behind() == {"c": None}


def test_a_rewritten_history_is_found_by_a_head_kept_elsewhere():
    """With the key everything can be rewritten, but not what others have noted down."""
    kept = Seen(head=head_of(chain_of(3)[1]), by="the log")
    rewritten = chain_of(3, records={1: AuditRecord(at=1.0, action="other.thing")})
    verification = verified(rewritten, seen=(kept,))
    assert [one.text for one in verification.findings] == ["chain a: entry 2 is not the one that the log saw"]
    assert found(chain_of(3), seen=(kept, kept)) == []


def test_an_empty_audit_is_a_finding():
    assert found() == [("empty", None, None)]


def test_a_chain_that_retention_has_cut_verifies():
    entries = chain_of(5)
    cut = signed_cut(entries[1], KEY)
    assert found(entries[2:], cuts={"a": cut}) == []
    assert found(entries[3:], cuts={"a": cut}) == [("missing", "a", 3)]
    assert ChainCheck("a", cut, KEYS).reached == 2
    verification = Verification(KEYS, [Seen(head=head_of(entries[1]), by="x")])
    assert verification.begin("a", cut) == 2
    verification.end()
    assert verification.findings == []


def test_a_forged_cut_hides_nothing():
    entries = chain_of(5)
    cut = signed_cut(entries[3], replace(OTHER, id=KEY.id))
    assert found(entries[4:], cuts={"a": cut}) == [("cut_changed", "a", 4), ("missing", "a", 1)]
    moved = replace(signed_cut(entries[1], KEY), number=4, mac=entries[3].mac)
    assert found(entries[4:], cuts={"a": moved}) == [("cut_changed", "a", 4), ("missing", "a", 1)]
    unreadable = replace(moved, number=-1)
    assert found(entries[4:], cuts={"a": unreadable}) == [("cut_changed", "a", -1), ("missing", "a", 1)]
    assert found(entries[2:], cuts={"a": signed_cut(entries[1], OTHER)}) == [("key_missing", "a", 2)]


def test_findings_are_counted_and_the_first_are_listed():
    verification = verified([*range(1, MAX_FINDINGS + 11), *chain_of(1)])
    assert (verification.finding_count, len(verification.findings)) == (MAX_FINDINGS + 11, MAX_FINDINGS)


def test_the_key_is_hkdf_and_shows_itself_nowhere():
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    secret = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"revor-relay audit v1").derive(b"k" * 32)
    assert KEY.secret == secret
    assert repr(KEY) == "AuditKey(0a0b0c0d)"


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


def test_notes_are_bounded():
    notes = {"a\x1b": "b\x1b", "n": 1, "big": 1 << 60, "f": 1.5, "none": None, "yes": True, "list": ["\x1b", {1: 2}]}
    assert orjson.loads(detail_of(notes)) == {
        **{"a\ufffd": "b\ufffd", "n": 1, "big": str(1 << 60), "f": 1.5, "none": None, "yes": True},
        "list": ["\ufffd", "{1: 2}"],
    }
    many = orjson.loads(detail_of({str(n): list(range(100)) for n in range(100)}))
    assert len(many) == 20
    assert len(many["0"]) == 20
