"""Trains rankers: what the trainer needs to know of them, and the predictions that judge them.

Early stopping watches the AUC of the validation split, or the log loss where there is no AUC because all labels are the same. Where
training draws negatives, negatives are drawn for the clicks of the validation split too, always the same ones.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rayrec.config import Ranker, Training
from rayrec.data.batches import Batch, batches, steps_of, training_batches
from rayrec.data.examples import Examples
from rayrec.data.loading import RankingData
from rayrec.data.negatives import NegativeSampler, chosen, click_pairs, drawn_examples, together, with_pairs
from rayrec.data.pages import NO_PAGES
from rayrec.data.windows import HistoryGather
from rayrec.ranking.goals import SeveralGoals
from rayrec.ranking.model import RankingModel
from rayrec.ranking.scorer import Scorer
from rayrec.ranking.warm_start import WarmStart
from rayrec.training.callbacks import NO_CALLBACK, Epoch, TrainingCallback
from rayrec.training.exchange import SINGLE, Worker, gather_rows
from rayrec.training.metrics import auc, label_metrics, log_loss
from rayrec.training.trainable import Trainable
from rayrec.training.trainer import CPU, Trainer
from rayrec.workspace.checkpoint import Checkpoint

AUC, LOG_LOSS = "validation_auc", "validation_log_loss"  # the metrics of an epoch

OnBest = Callable[[RankingModel, torch.optim.Optimizer], None]

log = logging.getLogger(__name__)


def train_ranker(
    data: RankingData,
    ranker: Ranker,
    settings: Training,
    seed: int,
    device: torch.device = CPU,
    callback: TrainingCallback = NO_CALLBACK,
    worker: Worker = SINGLE,
    checkpoint: Checkpoint | None = None,
    start: WarmStart | None = None,
    on_best: OnBest = lambda model, optimizer: None,
) -> tuple[Scorer, list[Epoch]]:
    """A scorer with the weights of its best epoch, and all epochs. Raises what `fit` raises."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = Scorer.untrained(ranker, data)
    scorer.to(device)
    return scorer, fit(scorer.model, data, settings, seed, device, callback, worker, checkpoint, start, on_best)


def fit(
    model: RankingModel,
    data: RankingData,
    settings: Training,
    seed: int,
    device: torch.device = CPU,
    callback: TrainingCallback = NO_CALLBACK,
    worker: Worker = SINGLE,
    checkpoint: Checkpoint | None = None,
    start: WarmStart | None = None,
    on_best: OnBest = lambda model, optimizer: None,
) -> list[Epoch]:
    """Train `model`, which is on `device`, in place and leave the weights of its best epoch in it. `data` is the worker's share.

    It goes on from `start`, if that is given. `on_best` is called at the end of each epoch that is better than those before.

    Raises `DivergedError` when the loss stops being finite, and `CheckpointError` for a checkpoint of another model.
    """
    gather = HistoryGather(data.clicks, model.window, device)

    def train(
        part: RankingModel, epochs: int, callback: TrainingCallback = NO_CALLBACK, checkpoint: Checkpoint | None = None
    ) -> list[Epoch]:
        trainable = TrainableRanker(part, data, gather, settings, seed, device, worker)
        if start is not None:
            start.take_over(part, trainable.optimizer)
        trainer = Trainer(
            epochs=epochs,
            seed=seed,
            patience=settings.patience,
            clip=settings.clip,
            device=device,
            worker=worker,
            callback=callback,
            checkpoint=checkpoint,
            checkpoint_s=settings.checkpoint_s,
            on_best=(lambda: on_best(part, trainable.optimizer)) if part is model else lambda: None,
        )
        return trainer.fit(trainable)

    if start is None and (checkpoint is None or not checkpoint.exists()):  # which have what was learned before
        model.pretrain(train)
    return train(model, settings.epochs, callback, checkpoint)


@torch.inference_mode()
def predict(
    model: RankingModel, examples: Examples, gather: HistoryGather, device: torch.device, batch_size: int = 8192
) -> np.ndarray:
    """The click probability of each example: float32 [examples]."""
    if isinstance(model, SeveralGoals):
        return predict_goals(model, examples, gather, device, batch_size)[:, model.settings.click_goal]
    model.eval()
    parts = [torch.sigmoid(model.score(batch))[:, 0].float() for batch in batches(examples, gather, batch_size, device)]
    return torch.cat(parts).cpu().numpy() if parts else np.empty(0, np.float32)


@torch.inference_mode()
def predict_goals(
    model: SeveralGoals, examples: Examples, gather: HistoryGather, device: torch.device, batch_size: int = 8192
) -> np.ndarray:
    """The value of each goal for each example: float32 [examples, G]."""
    model.eval()
    parts = [model.values(batch)[:, 0] for batch in batches(examples, gather, batch_size, device)]
    return torch.cat(parts).cpu().numpy() if parts else np.empty((0, len(model.goals)), np.float32)


def goal_metrics(ranker: Ranker, labels_RG: np.ndarray, values_RG: np.ndarray) -> dict[str, dict[str, float]]:
    """The metrics of each goal, over the impressions that have its label."""
    found = {}
    for (name, goal), labels, values in zip(ranker.goals.items(), labels_RG.T, values_RG.T, strict=True):
        known = ~np.isnan(labels)
        found[name] = label_metrics(labels[known], values[known], probability=goal.loss == "log")
    return found


class TrainableRanker(Trainable[Batch]):
    """A ranker with a worker's share of the examples of its training and validation splits."""

    def __init__(
        self,
        model: RankingModel,
        data: RankingData,
        gather: HistoryGather,
        settings: Training,
        seed: int,
        device: torch.device,
        worker: Worker,
    ) -> None:
        super().__init__(model, model.optimizer(settings))
        self.ranker, self.data, self.gather, self.settings = model, data, gather, settings
        self.seed, self.device, self.worker = seed, device, worker
        self.examples = data.train if data.recent is None else data.recent
        self.sampler, self.validation = self._negatives()
        self.losses_of = torch.compile(model.losses) if settings.compile else model.losses
        self.advice = f"lower training.learning_rate ({settings.learning_rate:g}) or set training.clip"

    def steps(self, epoch: int) -> int:
        return steps_of(self.examples, self.settings)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Batch | None, int]]:
        found = training_batches(self.examples, self.gather, self.settings, self.device, self.seed, epoch, skip, self.sampler)
        for batch, examples in found:
            yield (batch if len(batch.user) else None), examples

    def losses(self, share: Batch, examples: int) -> Sequence[Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            loss = self.losses_of(share).float().sum()
        return (loss / examples,)

    def validate(self) -> dict[str, float]:
        examples = self.validation
        if isinstance(self.ranker, SeveralGoals):
            return self._validate_goals(self.ranker)
        probability = torch.from_numpy(predict(self.ranker, examples, self.gather, self.device)).to(self.device)
        both = torch.stack([probability, torch.from_numpy(examples.clicked).to(self.device)], dim=1)
        probability, clicked = gather_rows(both, self.worker).cpu().numpy().T
        return {AUC: auc(clicked, probability), LOG_LOSS: log_loss(clicked, probability)}

    def _validate_goals(self, ranker: SeveralGoals) -> dict[str, float]:
        """The metrics of the click, and what each goal is judged by: `validation_GOAL_auc`, or `validation_GOAL_xauc`."""
        assert self.validation.goals is not None
        values = predict_goals(ranker, self.validation, self.gather, self.device)
        both = torch.from_numpy(np.concatenate([values, self.validation.goals], 1)).to(self.device)
        values, labels = np.split(gather_rows(both, self.worker).cpu().numpy(), 2, axis=1)
        clicked, probability = (columns[:, ranker.settings.click_goal] for columns in (labels, values))
        found = {AUC: auc(clicked > 0, probability), LOG_LOSS: log_loss(clicked, probability)}
        for name, metrics in goal_metrics(ranker.settings, labels, values).items():
            measure = "auc" if "auc" in metrics else "xauc"
            found[f"validation_{name}_{measure}"] = metrics[measure]
        return found

    def quality(self, epoch: Epoch) -> float:
        return epoch.metrics[AUC] if math.isfinite(epoch.metrics[AUC]) else -epoch.metrics[LOG_LOSS]

    def _negatives(self) -> tuple[NegativeSampler | None, Examples]:
        """What draws negatives for training, if anything does, and the validation split with negatives of its own.

        Raises `DataError` where a log of clicks alone is to be learned without negatives.
        """
        data, settings = self.data, chosen(self.settings.negatives, self.data.clicks_only)
        if settings is None:
            return None, data.validation
        if data.clicks_only and self.worker.rank == 0:
            log.info("the log has clicks alone: %d videos are drawn for each, which its user did not click", settings.count)
        items = len(data.items.ids)
        pairs = click_pairs(data.train, items)
        pages = data.read_pages() if settings.by == "page" else NO_PAGES
        sampler, whole = (
            NegativeSampler.of(settings, known, data.encoders.published_at, self.device, self.worker, pages)
            for known in (pairs, with_pairs(pairs, data.validation, items))
        )
        return sampler, together(data.validation, drawn_examples(data.validation, whole, self.seed)[0])
