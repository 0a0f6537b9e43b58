import pytest

from relay.core.jobs.job import (
    DIGEST_BYTES,
    INDEXED_BYTES,
    MAX_VALUE_CHARACTERS,
    Job,
    Progress,
    beginning_of,
    indexed,
    searchable,
    text_of,
    texts_of,
)


def job_with(metadata, request=None):
    return Job(
        uid="job_1",
        external_id="a",
        source="revor",
        account="default",
        metadata=metadata,
        request=request,
        progress=Progress(),
        tracked_at=0.0,
    )


LONGEST = "x" * MAX_VALUE_CHARACTERS


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("deal", "deal"),
        ("", ""),
        ("42", "42"),
        (42, "42"),
        (-1, "-1"),
        (4.5, "4.5"),
        (42.0, "42.0"),
        (123456789012345678901234567890, "123456789012345678901234567890"),
        (True, "true"),
        (False, "false"),
        (LONGEST, LONGEST),
        (LONGEST + "x", None),
        (None, None),
        (["deal"], None),
        ({"id": 1}, None),
    ],
)
def test_strings_numbers_and_booleans_have_a_text(value, text):
    assert text_of(value) == text


def test_only_the_given_keys_with_searchable_values_are_found():
    job = job_with({"deal": 42, "tags": ["a"], "secret": "x", "empty": ""})
    found = searchable(job, ("deal", "tags", "empty", "missing"))
    assert found == {("deal", indexed("42")), ("empty", indexed(""))}


@pytest.mark.parametrize(
    ("request_", "texts"),
    [
        (None, ["42"]),
        ({"metadata": {"deal": 43}}, ["42", "43"]),
        ({"metadata": {"deal": None}}, ["42"]),
        ({"metadata": "deal"}, ["42"]),
        ({"truncated": True}, ["42"]),
    ],
)
def test_a_job_is_found_by_the_metadata_of_its_create_too(request_, texts):
    job = job_with({"deal": 42}, request_)
    assert list(texts_of(job, "deal")) == texts
    assert searchable(job, ("deal",)) == {("deal", indexed(text)) for text in texts}


def test_a_job_without_metadata_is_found_by_nothing():
    assert searchable(job_with({}), ("deal",)) == set()


@pytest.mark.parametrize(
    ("text", "beginnings", "others"),
    [
        ("Ada Lovelace", ("", "a", "ada", "ADA L", "Ada Lovelace"), ("Ada  ", "lovelace", "ada%", "a_a", "Adb")),
        ("42", ("4", "42"), ("2", "420")),
        ("Straße", ("STRASSE", "strass"), ("strat",)),
        (LONGEST, ("x" * (INDEXED_BYTES - 1), LONGEST), ("y",)),
        ("\ud800", ("\ud800",), ("\ud801",)),
        ("", ("",), ("a",)),
    ],
)
def test_a_value_is_found_by_its_beginning_whatever_the_case(text, beginnings, others):
    assert all(indexed(text).startswith(beginning_of(one)) for one in beginnings)
    assert not any(indexed(text).startswith(beginning_of(one)) for one in others)
    assert len(indexed(text)) <= INDEXED_BYTES + 1 + DIGEST_BYTES


def test_values_with_the_same_beginning_are_told_apart():
    longer = [LONGEST[:-1] + end for end in "xy"]
    assert len({indexed(text) for text in ("Ada", "ada", "ada ", *longer)}) == 5
