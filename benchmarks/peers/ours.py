"""Our models on the peers' rows: `fit` on what `prepare` makes of the same files, held against the peers' columns first."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from common import HISTORY, SPLITS, TARGET, Rows, Settings, begin, report
from movielens import tables

import rayrec
from rayrec.config import Ranker, Split, Training
from rayrec.data.examples import Examples
from rayrec.data.loading import RankingData, prepare
from rayrec.data.windows import HistoryGather, LatestClicks
from rayrec.ranking import models
from rayrec.ranking.fitting import fit, predict
from rayrec.ranking.model import RankingModel
from rayrec.training.trainer import CPU

OURS = {"user": "user_id", "film": "video_id", "genres": "tags"}  # where our name differs from the rows'


def setup(rows: Rows, settings: Settings) -> tuple[RankingData, RankingModel, Training]:
    """The data, an untrained model, and how the peers train: no dropout, no decay, no early stop."""
    ranker = Ranker(
        model=settings.model,
        embedding_size=settings.embedding,
        hidden=list(settings.hidden),
        dropout=0,
        id_dropout=0,
        history_length=settings.history,
        item_fields=["tags", "year"],
        topics=False,
        options={"attention": list(settings.attention)} if settings.model == "din" else {},
    )
    training = Training(
        epochs=settings.epochs,
        patience=settings.epochs,
        batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        weight_decay=0,
    )
    data = prepare(*tables(Path(settings.movielens)), ranker, Split())
    data = replace(data, train=Examples(*(np.concatenate([column] * settings.copies) for column in data.train.columns)))
    hold_against(rows, data, settings.history)
    return data, models.build(ranker, data.tables), training


def hold_against(rows: Rows, data: RankingData, length: int) -> None:
    """Fail unless both hold the same examples: labels, and each field's values and the histories but for how they are numbered."""
    gather = HistoryGather(data.clicks, LatestClicks(length), CPU)
    for split in SPLITS:
        examples, theirs = getattr(data, split).on(CPU), rows.columns[split]
        assert np.array_equal(examples.clicked, theirs["label"]), f"{split}: labels differ"
        for table, row in ((data.users, examples.user.long()), (data.items, examples.item.long())):
            for name, column in table.categorical.items():
                same_but_for_names(column[row].numpy(), theirs[{v: k for k, v in OURS.items()}.get(name, name)], f"{split}: {name}")
        history, _ = gather(examples.user.long(), examples.end)
        films = data.items.categorical[OURS[TARGET]][history].numpy()
        assert np.array_equal((history > 0).sum(1), theirs["history_length"]), f"{split}: lengths of histories differ"
        ahead = (np.arange(length) - theirs["history_length"][:, None]) % length  # ours are padded in front
        same_but_for_names(np.take_along_axis(films, ahead, 1).ravel(), theirs[HISTORY].ravel(), f"{split}: histories")


def same_but_for_names(ours: np.ndarray, theirs: np.ndarray, what: str) -> None:
    """Fail unless each value of one stands for one value of the other, 0 for 0."""
    pairs = np.unique(np.stack([ours, theirs], 1), axis=0)
    assert len(pairs) == len(np.unique(ours)) == len(np.unique(theirs)), f"{what}: the values differ"
    assert np.array_equal(ours == 0, theirs == 0), f"{what}: the unknown values differ"


def main() -> None:
    rows, settings = begin()
    data, model, training = setup(rows, settings)
    epochs = fit(model, data, training, settings.seed)
    probability = predict(model, data.test, HistoryGather(data.clicks, model.window, CPU), CPU)
    speeds, validation = [epoch.examples_per_s for epoch in epochs], [epoch.metrics["validation_auc"] for epoch in epochs]
    report("rayrec", rayrec.__version__, settings, speeds, validation, data.test.clicked, probability)


if __name__ == "__main__":
    main()
