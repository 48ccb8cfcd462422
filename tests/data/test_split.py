"""Where the log is cut."""

import numpy as np

from rayrec.config import Split
from rayrec.data.split import split_times


def test_the_shares_are_those_of_the_settings_in_any_order():
    shown = np.random.default_rng(0).permutation(1000)
    assert split_times(shown, Split(validation=0.3, test=0.2)) == (500, 800)


def test_moments_are_never_split():
    shown = np.repeat([1, 2, 3], [50, 10, 40])
    validation, test = split_times(shown, Split(validation=0.3, test=0.2))
    assert (validation, test) == (1, 3) or (validation, test) == (2, 3)
