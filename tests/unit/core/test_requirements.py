"""Checks: the words for values that pydantic refuses."""

from typing import Annotated, Any

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from relay.core.requirements import requirement


@pytest.mark.parametrize(
    ("type_", "value", "words"),
    [
        (str, 5, "must be text"),
        (dict[str, Any], "hello", "must be an object"),
        (list[str], "failed", "must be a list"),
        (tuple[str, ...], 5, "must be a list"),
        (int, "many", "must be a whole number"),
        (int, 1.5, "must be a whole number"),
        (float, "fast", "must be a number"),
        (bool, "perhaps", "must be true or false"),
        (Annotated[int, Field(ge=0)], -1, "must be at least 0"),
        (Annotated[int, Field(gt=0)], 0, "must be greater than 0"),
        (Annotated[float, Field(gt=0)], 0.0, "must be greater than 0"),
        (Annotated[float, Field(le=0.5)], 1.0, "must be at most 0.5"),
        (Annotated[int, Field(le=9)], 10, "must be at most 9"),
        (Annotated[int, Field(lt=9)], 9, "must be less than 9"),
        (Annotated[float, Field(allow_inf_nan=False)], float("inf"), "must be a finite number"),
        (Annotated[str, Field(min_length=1)], "", "is too short: its length must be at least 1"),
        (Annotated[str, Field(max_length=2)], "abc", "is too long: its length must be at most 2"),
        (Annotated[list[int], Field(min_length=1)], [], "has too few entries: at least 1"),
        (Annotated[tuple[int, ...], Field(min_length=1)], [], "has too few entries: at least 1"),
        (Annotated[frozenset[int], Field(min_length=2)], [1], "has too few entries: at least 2"),
        (Annotated[list[int], Field(max_length=1)], [1, 2], "has too many entries: at most 1"),
        (Annotated[str, Field(pattern="^a$")], "b", None),
    ],
)
def test_requirement_is_named_in_plain_words(type_: Any, value: Any, words: str | None) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(type_).validate_python(value)
    (fault,) = caught.value.errors()
    assert requirement(fault["type"], fault.get("ctx", {})) == words


def test_unknown_types_keep_their_own_words() -> None:
    assert requirement("datetime_type", {}) is None
