"""Where the log is cut, by time, into training, validation and test: one rule for all that learn from it."""

import numpy as np

from rayrec.config import Split


def split_times(shown_at: np.ndarray, split: Split) -> tuple[int, int]:
    """The times (UTC ms) at which validation and test begin. Impressions of one moment stay together."""
    ordered = np.sort(shown_at)
    places = [int(len(ordered) * (1 - split.test - split.validation)), int(len(ordered) * (1 - split.test))]
    validation, test = (int(ordered[min(place, len(ordered) - 1)]) for place in places)
    return validation, test
