"""The errors of pydantic in the words of those who write configs and requests."""

from collections.abc import Mapping
from typing import Any

# By the type of the error; the names in braces are pydantic's and stand in its `ctx`.
WORDING = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "date_from_datetime_inexact": "must be a date such as 2026-12-24",
    "date_from_datetime_parsing": "must be a date such as 2026-12-24",
    "date_parsing": "must be a date such as 2026-12-24",
    "date_type": "must be a date such as 2026-12-24",
    "dict_type": "must be an object with names and values",
    "extra_forbidden": "is unknown",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "int_type": "must be a whole number",
    "invalid_key": "a name must be a string; put it in quotes",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "model_attributes_type": "must be an object with names and values",
    "model_type": "must be an object with names and values",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "must be a string",
    "string_unicode": "must be a string of valid Unicode",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
}


def wording(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value, as the end of a sentence; `problem` is one of `ValidationError.errors()`."""
    limits = {name: f"{value:g}" if isinstance(value, float) else value for name, value in problem.get("ctx", {}).items()}
    if limits.get("min_length") == 1:
        return "must not be empty"
    template = WORDING.get(problem["type"])
    return template.format_map(limits) if template else problem["msg"].removeprefix("Value error, ")
