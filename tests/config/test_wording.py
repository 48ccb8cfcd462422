"""The sentences about wrong values: none has pydantic's own words."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from rayrec.config.wording import WORDING, wording

OWN_WORDS = ("Input", "String", "List", "Dictionary", "valid integer", "validation", "tag")


class Every(BaseModel):
    """A value of each kind that configs and requests have."""

    whole: Annotated[int, Field(ge=1, le=9, multiple_of=2)] = 2
    number: Annotated[float, Field(gt=0.5, lt=8, allow_inf_nan=False)] = 1
    truth: bool = True
    text: Annotated[str, Field(min_length=2, max_length=3)] = "ab"
    name: Annotated[str, Field(min_length=1)] = "a"
    words: Annotated[list[str], Field(min_length=2, max_length=2)] = ["a", "b"]
    pairs: dict[str, int] = {}
    choice: Literal["a", "b", "c"] = "a"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"whole": "ten"}, "must be a whole number"),
        ({"whole": 2.5}, "must be a whole number"),
        ({"whole": None}, "must be a whole number"),
        ({"whole": 0}, "must be 1 or more"),
        ({"whole": 10}, "must be 9 or less"),
        ({"whole": 3}, "must be a multiple of 2"),
        ({"number": "x"}, "must be a number"),
        ({"number": []}, "must be a number"),
        ({"number": 0.5}, "must be more than 0.5"),
        ({"number": 8}, "must be less than 8"),
        ({"number": float("inf")}, "must be a finite number"),
        ({"truth": "perhaps"}, "must be true or false"),
        ({"truth": []}, "must be true or false"),
        ({"text": 1}, "must be a string"),
        ({"text": "a"}, "must have at least 2 characters"),
        ({"text": "abcd"}, "must have at most 3 characters"),
        ({"name": ""}, "must not be empty"),
        ({"words": "ab"}, "must be a list"),
        ({"words": ["a"]}, "must have at least 2 entries"),
        ({"words": ["a", "b", "c"]}, "must have at most 2 entries"),
        ({"pairs": 1}, "must be an object with names and values"),
        ({"choice": "d"}, "must be 'a', 'b' or 'c'"),
        (3, "must be an object with names and values"),
    ],
)
def test_a_value_is_judged_in_plain_words(value: Any, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Every.model_validate(value)
    assert [wording(dict(problem)) for problem in caught.value.errors()] == [sentence]


def test_no_sentence_has_words_of_the_library() -> None:
    assert [text for text in WORDING.values() if any(word in text for word in OWN_WORDS)] == []


def test_a_sentence_of_ours_stays_as_it_is() -> None:
    assert (
        wording({"type": "value_error", "msg": "Value error, a span is empty", "ctx": {"error": ValueError()}}) == "a span is empty"
    )
