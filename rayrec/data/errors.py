"""What no ranker can be trained on."""

import pyarrow as pa

from rayrec.errors import RayrecError


class DataError(RayrecError):
    """No ranker can be trained on these data; the message names the column or the setting and what to change."""


def refuse_no_clicks(labels: set[bool], rows: int) -> None:
    """Raise `DataError` where the training split, which has so many rows and these labels, has no click.

    Clicks alone are enough: the videos that were not clicked are then drawn in training.
    """
    if True not in labels:
        raise DataError(
            f"interactions: of the {rows} impressions of the training split none was clicked, so there is nothing to learn; "
            "the log must contain impressions that were clicked"
        )


def refuse_nested(name: str, kind: pa.DataType) -> None:
    """Raise `DataError` for a column of the log that can't be a context field."""
    if pa.types.is_nested(kind):
        raise DataError(f"ranker.context_fields: column {name!r} of the log holds {kind}; a context field is one value")
