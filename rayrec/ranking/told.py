"""What callers say of users while the service runs, as rows of the table of users that training has seen."""

import json
import math

import pyarrow as pa

from rayrec.data.fields import FieldEncoder
from rayrec.tables import TEXT, VECTOR
from rayrec.values import text_of


def told_users(encoder: FieldEncoder, user_ids: list[str], told: list[str]) -> pa.Table:
    """A row for each user, of whom `told` has a JSON object: column -> value.

    Columns that the encoder does not know are left out; what is missing, or no value for its column, is null.
    """
    said = [json.loads(text) for text in told]
    columns: dict[str, pa.Array] = {}
    for name in encoder.vocabularies:
        values = [row.get(name) for row in said]
        if name in encoder.multivalued:
            columns[name] = pa.array([_texts(value) for value in values], pa.list_(TEXT))
        else:
            columns[name] = pa.array([None if isinstance(value, list) else text_of(value) for value in values], TEXT)
    for name in encoder.scales:
        columns[name] = pa.array([_number(row.get(name)) for row in said], pa.float64())
    for name, (means, _) in encoder.vector_scales.items():
        columns[name] = pa.array([_vector(row.get(name), len(means)) for row in said], VECTOR)
    return pa.table(columns | {encoder.id_column: pa.array(user_ids, TEXT)})


def _texts(value: object) -> list[str | None] | None:
    if value is None:
        return None
    return [text_of(each) for each in (value if isinstance(value, list) else [value])]


def _vector(value: object, size: int) -> list[float | None] | None:
    numbers = [_number(each) for each in value] if isinstance(value, list) else []
    return numbers if len(numbers) == size and None not in numbers else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
