"""Examples and clicks are held out of a ranker's data pair by pair."""

import numpy as np
from scipy import sparse

from rayrec.data.loading import RankingData
from rayrec.evaluation.ranked_items import clicks_without, leaving_out

Pairs = list[tuple[int, int]]


def matrix(data: RankingData, pairs: Pairs) -> sparse.csr_array:
    columns = tuple(np.array(column) for column in zip(*pairs, strict=True))
    shape = (len(data.users.ids), len(data.items.ids))
    return sparse.coo_array((np.ones(len(pairs), np.float32), columns), shape=shape).tocsr()


def clicked_pairs(data: RankingData) -> Pairs:
    user = np.repeat(np.arange(len(data.clicks.offsets) - 1), np.diff(data.clicks.offsets))
    return sorted({(u, i) for u, i in zip(user.tolist(), data.clicks.items.tolist(), strict=True) if u and i})


def test_every_example_is_in_the_split_of_its_pair(data: RankingData) -> None:
    pairs = clicked_pairs(data)
    validation, test = pairs[::7], pairs[3::7]
    found = leaving_out(data, matrix(data, validation), matrix(data, test))
    parts = {"train": found.train, "validation": found.validation, "test": found.test}
    assert sum(map(len, parts.values())) == len(data.train) + len(data.validation) + len(data.test)
    for name, examples in parts.items():
        for pair in zip(examples.user.tolist(), examples.item.tolist(), strict=True):
            assert name == ("validation" if pair in validation else "test" if pair in test else "train")
        assert (np.diff(examples.at) >= 0).all()
        assert np.array_equal(examples.end, data.clicks.ends(examples.user, examples.at))
    assert len(found.test_row) == len(found.test)


def test_clicks_that_are_held_out_are_in_no_history(data: RankingData) -> None:
    pairs = clicked_pairs(data)
    out = set(pairs[::5])
    left = clicks_without(data.clicks, matrix(data, pairs[::5]))
    for user in range(len(data.users.ids)):
        before = slice(data.clicks.offsets[user], data.clicks.offsets[user + 1])
        after = slice(left.offsets[user], left.offsets[user + 1])
        kept = [
            (item, at)
            for item, at in zip(data.clicks.items[before].tolist(), data.clicks.times[before].tolist(), strict=True)
            if (user, item) not in out
        ]
        assert list(zip(left.items[after].tolist(), left.times[after].tolist(), strict=True)) == kept
