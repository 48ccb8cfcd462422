"""The one text of a value, so that `true`, `True` and 1.0 of one file are the `true` and 1 of another file, and of a request.

    a truth value, and the texts True, TRUE, False, FALSE      true, false
    a number, whole or not                                     1, 1.5, 1000000, 0.00001: all digits, no exponent
    text in the form that writers of files give to a float     the same as that number: 1.0 is 1, 1e-05 is 0.00001
    other text                                                 itself: 02134 is not 2134, and 1.10 is not 1.1
    a moment in a time zone                                    the same in UTC: 2024-01-31 12:00:00Z
    null, and a number that is NaN                             none

Ids, classes, authors, the columns that users add, the context of requests: all are compared by this text. Titles and uris are not
values; they stay as they are. `text_of` is for one value, `texts_of` for a column; they agree.
"""

import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# In a syntax that both Python and RE2, Arrow's library, understand. A float is recognised by its sign or point, as in 1e-05 and
# 1.5e+20 (C, Python, JavaScript) and 1.0E10 (Java), so that an id such as 12e45 stays what it is.
_TRUTH = "True|TRUE|False|FALSE"
_WHOLE = r"-?(?:0|[1-9][0-9]*)\.0+"
_FLOAT = r"-?[1-9](?:\.[0-9]+)?[eE][+-][0-9]{1,3}|-?[1-9]\.[0-9]+[eE][0-9]{1,3}"
_REWRITTEN = f"{_TRUTH}|{_WHOLE}|{_FLOAT}"
_rewritten = re.compile(_REWRITTEN).fullmatch


def text_of(value: Any) -> str | None:
    """The canonical text of a value; None for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, Decimal) and value.is_finite():
        text = format(value, "f")
        return _positive_zero(text.rstrip("0").rstrip(".") if "." in text else text)
    text = str(value)
    if not _rewritten(text):
        return text
    if text[0] in "TF":
        return text.lower()
    if text.endswith("0") and "e" not in text.lower():
        return _positive_zero(text.partition(".")[0])
    number = float(text)
    if math.isinf(number):
        return text
    return str(int(number)) if number.is_integer() else format(Decimal(repr(number)), "f")


def texts_of(column: "pa.Array | pa.ChunkedArray") -> "pa.Array | pa.ChunkedArray":
    """The canonical text of each value of a column, as large_string; null where there is none.

    Raises `ArrowNotImplementedError` for lists, structs and other types whose values have no text, `ArrowInvalid` for bytes that
    are not UTF-8.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    text, kind = pa.large_string(), column.type
    if pa.types.is_dictionary(kind):
        return texts_of(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.timestamp(kind.unit, "UTC"))  # one moment has one text, also where nobody knows the zone
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        times = column.cast(text)
        if kind.unit == "s":
            return times
        times = pc.replace_substring_regex(times, r"(\.[0-9]*[1-9])0+(Z?)$", r"\1\2")
        return pc.replace_substring_regex(times, r"\.0+(Z?)$", r"\1")
    if pa.types.is_floating(kind):
        try:
            return column.cast(pa.int64()).cast(text)
        except pa.ArrowInvalid:
            return _by_distinct_values(column)
    if pa.types.is_decimal(kind):
        narrow = pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind)  # which Arrow can't encode
        return _by_distinct_values(column.cast(pa.decimal128(kind.precision, kind.scale)) if narrow else column)
    texts = column.cast(text)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return texts
    rewritten = pc.any(pc.match_substring_regex(texts, f"^(?:{_REWRITTEN})$")).as_py()
    return _by_distinct_values(texts) if rewritten else texts


def _by_distinct_values(column: "pa.Array | pa.ChunkedArray") -> "pa.Array":
    """`text_of`, called once for each distinct value."""
    import pyarrow as pa

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = whole.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if pa.types.is_floating(column.type):
        # A fraction of a narrow float is the shortest decimal that names it: 0.1, and not 0.10000000149.
        narrow = encoded.dictionary.to_numpy(zero_copy_only=False)
        values = [value if value.is_integer() else float(str(each)) for value, each in zip(values, narrow, strict=True)]
    texts = pa.array([text_of(value) for value in values], pa.large_string())
    return texts.take(encoded.indices)


def _positive_zero(text: str) -> str:
    return "0" if text == "-0" else text
