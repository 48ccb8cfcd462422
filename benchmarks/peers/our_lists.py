"""Our collaborative models, and `neumf`, on the same pairs. Index 0 is nobody and nothing, so all others are one higher."""

import time

import numpy as np
import pyarrow as pa
import torch
from lists import Clock, Data, Settings, begin, report
from scipy import sparse

import rayrec
from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.config import Collaborative, Negatives, Ranker, Split, Training
from rayrec.data.loading import prepare
from rayrec.evaluation.ranked_items import leaving_out, ranker_lists
from rayrec.ranking.fitting import AUC, train_ranker
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.training.trainer import CPU


class Laps:
    """The CPU seconds at the end of each epoch."""

    def __init__(self) -> None:
        self.started, self.at = time.process_time(), [0.0]

    def callback(self) -> TrainingCallback:
        return TrainingCallback(on_epoch=lambda epochs: self.at.append(time.process_time() - self.started))


def until_best(epochs: list[Epoch], examples: int, metric: str) -> tuple[Clock, int]:
    """The seconds of the training up to the best epoch, without those of the validation. One thread's are CPU seconds."""
    best = max(epochs, key=lambda epoch: epoch.metrics[metric]).epoch
    seconds = sum(examples / epoch.examples_per_s for epoch in epochs[:best])
    return Clock(seconds, seconds), best


def behind_zero(matrix: sparse.csr_matrix) -> sparse.csr_array:
    found = matrix.tocoo()
    return sparse.coo_array((found.data, (found.row + 1, found.col + 1)), shape=tuple(size + 1 for size in matrix.shape)).tocsr()


def collaborative(data: Data, settings: Settings) -> None:
    options = {} if settings.model == "ease" else {"size": settings.size, "epochs": settings.epochs, "patience": settings.patience}
    model, likes = build(Collaborative(model=settings.model, options=options)), behind_zero(data.train)
    vectors = {name: np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows]) for name, rows in data.vectors.items()}
    feedback, clock, found = Feedback(likes, behind_zero(data.validation), vectors), Clock(), []
    clock.time(lambda: found.extend(model.fit(feedback, Fitting(settings.seed))))
    best = None
    if found:
        clock, best = until_best(found, data.train.nnz, "validation_ndcg_at_20")
    lists = data.lists(lambda users: model.scores(users + 1, likes[users + 1])[:, 1:])
    report(data, clock, best, lists, rayrec.__version__)


def neumf(data: Data, settings: Settings) -> None:
    """The validation split is held out pair by pair; the epoch with the best AUC beside drawn negatives counts."""
    pairs = np.concatenate([data.pairs["train"], data.pairs["validation"]])
    users, items = data.train.shape
    log = pa.table(
        {
            "user_id": [f"u{user:06d}" for user in pairs[:, 0]],
            "video_id": [f"i{item:06d}" for item in pairs[:, 1]],
            "shown_at": np.arange(1, len(pairs) + 1, dtype=np.int64) * 1000,
            "clicked": np.ones(len(pairs), bool),
        }
    )
    catalog = pa.table({"video_id": [f"i{item:06d}" for item in range(items)]})
    ranker = Ranker(
        model="neumf", options={"content": False}, embedding_size=settings.size, hidden=[64, 32, 16], dropout=0, id_dropout=0,
        item_fields=[], topics=False, history_length=1,
    )  # fmt: skip
    whole = prepare(log, catalog, None, ranker, Split(validation=1e-5, test=1e-5))
    index_of_user = np.array([whole.users.index.get(f"u{user:06d}", 0) for user in range(users)])
    index_of_item = np.array([whole.items.index[f"i{item:06d}"] for item in range(items)])
    held_out = data.pairs["validation"]
    columns = (index_of_user[held_out[:, 0]], index_of_item[held_out[:, 1]])
    shape = (len(whole.users.ids), len(whole.items.ids))
    validation = sparse.coo_array((np.ones(len(held_out), np.float32), columns), shape=shape).tocsr()
    ready = leaving_out(whole, validation, sparse.csr_array(shape, dtype=np.float32))
    training = Training(
        epochs=settings.epochs, patience=settings.patience, batch_size=2048, weight_decay=0, negatives=Negatives(count=1)
    )  # fmt: skip
    scorer, epochs = train_ranker(ready, ranker, training, settings.seed)
    clock, best = until_best(epochs, len(ready.train), AUC)
    scores = ranker_lists(scorer.model, ready.clicks, 0, 0, CPU)
    lists = data.lists(lambda some: scores(index_of_user[some], sparse.csr_array((len(some), shape[1])))[:, index_of_item])
    report(data, clock, best, lists, rayrec.__version__)


def main() -> None:
    data, settings = begin()
    torch.set_num_threads(settings.threads)
    (neumf if settings.model == "neumf" else collaborative)(data, settings)


if __name__ == "__main__":
    main()
