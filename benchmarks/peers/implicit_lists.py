"""ALS and BPR of `implicit`. ALS has its own 15 iterations; BPR goes on from its factors, ten iterations at a time."""

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from lists import Clock, begin, report, train_until_best

STEPS = 10  # of BPR, between two looks at validation; a call of `fit` starts anew with few costs


def main() -> None:
    data, settings = begin()
    common = {"factors": settings.size, "num_threads": settings.threads, "random_state": settings.seed}
    if settings.model == "als":
        model, clock = AlternatingLeastSquares(**common), Clock()
        clock.time(lambda: model.fit(data.train, show_progress=False))
        report(data, clock, model.iterations, data.lists(lambda users: model.user_factors[users] @ model.item_factors.T))
        return
    model = BayesianPersonalizedRanking(iterations=STEPS, **common)
    train_until_best(
        data,
        settings,
        lambda: model.fit(data.train, show_progress=False),
        lambda users: np.asarray(model.user_factors[users]) @ np.asarray(model.item_factors).T,
    )


if __name__ == "__main__":
    main()
