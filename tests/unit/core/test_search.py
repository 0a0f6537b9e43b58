import pytest

from relay.core.jobs.job import MAX_VALUE_CHARACTERS, Job, Progress, digest_of, searchable, text_of, texts_of


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
    assert found == {("deal", digest_of("42")), ("empty", digest_of(""))}


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
    assert searchable(job, ("deal",)) == {("deal", digest_of(text)) for text in texts}


def test_a_job_without_metadata_is_found_by_nothing():
    assert searchable(job_with({}), ("deal",)) == set()
