"""What no ranker can be trained on."""

import pyarrow as pa

from rayrec.errors import RayrecError


class DataError(RayrecError):
    """No ranker can be trained on these data; the message names the column or the setting and what to change."""


def refuse_one_label(labels: set[bool], rows: int) -> None:
    """Raise `DataError` where the training split, which has so many rows, knows only one of the two labels."""
    if len(labels) == 1:
        kind = "every one" if labels == {True} else "none"
        raise DataError(
            f"interactions: of the {rows} impressions of the training split {kind} was clicked, so there is nothing to learn; "
            "the log must contain both impressions that were clicked and impressions that were not"
        )


def refuse_nested(name: str, kind: pa.DataType) -> None:
    """Raise `DataError` for a column of the log that can't be a context field."""
    if pa.types.is_nested(kind):
        raise DataError(f"ranker.context_fields: column {name!r} of the log holds {kind}; a context field is one value")
