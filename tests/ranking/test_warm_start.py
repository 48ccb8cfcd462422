"""A training that stopped and goes on with newer data ends as one that saw the same batches without the stop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch

from rayrec.config import Goal, Ranker, Split, Training
from rayrec.data.errors import DataError
from rayrec.data.examples import Examples
from rayrec.data.loading import RankingData, join_items, prepare
from rayrec.data.shards import LogFacts
from rayrec.data.windows import HistoryGather
from rayrec.ranking.fitting import TrainableRanker, train_ranker
from rayrec.ranking.model import RankingModel
from rayrec.ranking.models import NAMES
from rayrec.ranking.scorer import RankerError, Scorer
from rayrec.ranking.warm_start import OPTIMIZER, WarmStart, refuse_other_settings, save_optimizer
from rayrec.training.exchange import SINGLE
from rayrec.training.trainer import CPU, Trainer
from tests.fixtures.ranking import small_maps
from tests.training.small_log import START, VIDEOS, catalog, interactions

FS = pafs.LocalFileSystem()
RANKER = Ranker(embedding_size=8, topic_size=8, hidden=[16], history_length=10, context_fields=["device"], dropout=0, id_dropout=0)
SETTINGS = Training(epochs=1, batch_size=256, learning_rate=5e-3)
SEVERAL = {"click": Goal(label="clicked"), "odds": Goal(label="clicked", loss="weighted_logistic")}
FEWER = VIDEOS - 5  # videos in the first half
ROWS, SPLIT = 3000, Split(validation=0.1, test=0.1)
UNTIL = START + int(ROWS / 2 * 0.8)  # where the first half of the log, of which a tenth is for validation and test each, ends


def log(rows: int) -> pa.Table:
    """A log of which the second half has a device, users and videos that the first lacks; `b` is between the other devices."""
    found, number = interactions(ROWS), np.arange(ROWS)
    late = number >= ROWS // 2
    devices = np.where(late & (number % 3 == 0), "b", np.where(number % 2, "a", "c"))
    users = pa.array([f"{'late-' if is_late and i % 9 == 0 else ''}u{i % 40}" for i, is_late in enumerate(late.tolist())])
    videos = [
        video if is_late else f"v{int(video[1:]) % FEWER}"
        for video, is_late in zip(found["video_id"].to_pylist(), late, strict=True)
    ]
    found = found.set_column(0, "user_id", users).set_column(1, "video_id", pa.array(videos))
    return found.append_column("device", pa.array(devices)).slice(0, rows)


def items(videos: int) -> pa.Table:
    kinds = pa.array([[i % 4] for i in range(VIDEOS)], pa.list_(pa.int32()))
    topics = pa.table({"video_id": catalog()["video_id"], "topics": kinds})
    table = join_items(catalog(), topics, None, []).append_column("age", pa.array(np.arange(VIDEOS, dtype=float)))
    for name, column in small_maps(VIDEOS).items():
        table = table.append_column(name, column)
    return table.slice(0, videos)


def first_half(settings: Ranker) -> RankingData:
    return prepare(log(ROWS // 2), items(FEWER), None, settings, SPLIT)


def with_fields(**values: Any) -> Ranker:
    return RANKER.model_copy(update={"item_fields": ["tags", "age"], **values})


def trained(data: RankingData, settings: Ranker, folder: Path) -> Scorer:
    """A ranker that is saved with its optimizer's state."""

    def keep(model: RankingModel, optimizer: torch.optim.Optimizer) -> None:
        save_optimizer(FS, str(folder), model, optimizer, UNTIL)

    scorer, _ = train_ranker(data, settings, SETTINGS, 1, on_best=keep)
    scorer.save(FS, str(folder))
    return scorer


@pytest.mark.parametrize("name", [*NAMES, "wide_deep with goals", "lr with goals"])
def test_a_training_goes_on_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    goals = SEVERAL if name.endswith(" with goals") else {}
    settings = with_fields(model=name.removesuffix(" with goals"), goals=goals)
    half = first_half(settings)
    base = trained(half, settings, tmp_path)
    whole = prepare(log(ROWS), items(VIDEOS), None, settings, SPLIT, base, UNTIL)
    assert whole.recent is not None
    assert 0 < len(whole.recent) < len(whole.train)
    start = WarmStart.load(FS, str(tmp_path), settings)
    assert start.until == UNTIL
    stopped, _ = train_ranker(whole, settings, SETTINGS, 2, start=start)

    # The other one has the grown tables from the start, of which no batch of the first half touches the new rows.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        untrained = Scorer.untrained(settings, half)
        torch.manual_seed(2)
        model = Scorer.untrained(settings, whole).model
    optimizer = model.optimizer(SETTINGS)
    WarmStart(untrained, {}, 0).take_over(model, optimizer)
    gather = HistoryGather(whole.clicks, model.window, CPU)
    assert isinstance(whole.train, Examples)
    earlier = whole.train.take(whole.train.at < UNTIL)
    assert len(earlier) == len(half.train)
    for seed, examples in ((1, earlier), (2, whole.recent)):
        trainable = TrainableRanker(model, replace(whole, recent=examples), gather, SETTINGS, seed, CPU, SINGLE)
        trainable.optimizer = optimizer
        Trainer(epochs=1, seed=seed).fit(trainable)
    state = model.state_dict()
    for key, values in stopped.model.state_dict().items():
        torch.testing.assert_close(values, state[key], rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_known_values_keep_their_indices(tmp_path: Path) -> None:
    settings = with_fields()
    base = trained(first_half(settings), settings, tmp_path)
    whole = prepare(log(ROWS), items(VIDEOS), None, settings, SPLIT, base, UNTIL).encoders
    assert base.context_encoder.vocabularies["device"] == ["a", "c"]
    assert whole.context_encoder.vocabularies["device"] == ["a", "c", "b"]
    for old, new in ((base.user_encoder, whole.user_encoder), (base.item_encoder, whole.item_encoder)):
        assert new.scales == old.scales
        for name, words in old.vocabularies.items():
            assert new.vocabularies[name][: len(words)] == words
    assert len(whole.user_encoder.vocabularies["user_id"]) > len(base.user_encoder.vocabularies["user_id"])


def test_goals_in_another_order_are_other_goals() -> None:
    goals = {"click": Goal(label="clicked"), "like": Goal(label="liked")}
    settings = with_fields(model="fm").model_copy(update={"goals": goals})
    refuse_other_settings(settings, settings.model_copy(update={"goals": dict(goals)}))
    with pytest.raises(RankerError, match=r"ranker\.goals="):
        refuse_other_settings(settings, settings.model_copy(update={"goals": dict(reversed(goals.items()))}))


def test_what_cannot_go_on_is_refused_in_words(tmp_path: Path) -> None:
    settings = with_fields(model="fm")
    base = trained(first_half(settings), settings, tmp_path)
    with pytest.raises(
        RankerError, match=r"trained with ranker.embedding_size=8, and now it is 4; change it back, or set training.from"
    ):
        WarmStart.load(FS, str(tmp_path), settings.model_copy(update={"embedding_size": 4}))
    fewer = settings.model_copy(update={"item_fields": ["tags"]})
    with pytest.raises(
        DataError,
        match=r"other columns beside 'video_id': 'age' is new, gone or of another type now; run `rayrec train",
    ):
        prepare(log(ROWS), items(VIDEOS), None, fewer, SPLIT, base)
    start = WarmStart.load(FS, str(tmp_path), settings)
    facts = LogFacts([[1, 1, 1]], 0, base.context_encoder, validation_at=START)
    with pytest.raises(DataError, match=r"all of the training split, which ends at 2023-11-14 22:13 UTC; add newer interactions"):
        start.refuse_nothing_new(facts, 0)
    with pytest.raises(DataError, match="the log has no times"):
        start.refuse_nothing_new(replace(facts, split_by="user"), 10)
    (tmp_path / OPTIMIZER).unlink()
    with pytest.raises(RankerError, match=r"optimizer.safetensors is not there, since an earlier rayrec trained this ranker"):
        WarmStart.load(FS, str(tmp_path), settings)
