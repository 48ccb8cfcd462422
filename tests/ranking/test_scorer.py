"""A saved scorer scores as before, serving scores as training does, and a file that can't be read is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch

from rayrec.config import ConfigError, Ranker
from rayrec.data.batches import batches
from rayrec.data.errors import DataError
from rayrec.data.loading import RankingData
from rayrec.data.windows import HistoryGather
from rayrec.ranking.scorer import RankerError, Scorer
from tests.fixtures.ranking import joined

CPU = torch.device("cpu")


@pytest.fixture
def scorer(data: RankingData, settings: Ranker) -> Scorer:
    torch.manual_seed(0)
    return Scorer.untrained(settings, data)


def test_save_and_load(scorer: Scorer, data: RankingData, tmp_path: Path) -> None:
    scorer.save(pafs.LocalFileSystem(), str(tmp_path / "ranker"))
    loaded = Scorer.load(pafs.LocalFileSystem(), str(tmp_path / "ranker"))
    arguments = (
        ["u1", "nobody"],
        [data.clicks.of_user(2), np.empty(0, np.int32)],
        [np.arange(len(data.clicks.of_user(2))), np.empty(0, np.int64)],
        np.array([1, 2]),
        np.array([[1, 2, 0], [3, 4, 5]]),
        [{"device": "d1"}, {}],
    )
    np.testing.assert_array_equal(scorer.score(*arguments), loaded.score(*arguments))
    assert loaded.item_ids == scorer.item_ids
    assert {path.suffix for path in (tmp_path / "ranker").iterdir()} == {".safetensors", ".parquet", ".json"}


def test_serving_scores_what_training_predicted(scorer: Scorer, data: RankingData, settings: Ranker) -> None:
    gather = HistoryGather(data.clicks, scorer.model.window, CPU)
    scorer.model.eval()
    with torch.inference_mode():
        offline = torch.cat([torch.sigmoid(scorer.model(batch)) for batch in batches(data.test, gather, 50, CPU)])[:, 0].numpy()
    for row in range(0, len(data.test), 7):
        user = int(data.test.user[row])
        known = slice(data.clicks.offsets[user], data.test.end[row])
        served = scorer.score(
            [data.users.ids[user]],
            [data.clicks.items[known]],
            [data.clicks.times[known]],
            data.test.at[row : row + 1],
            data.test.item[row : row + 1][None],
            [data.context_encoder.decode(data.test.context[row])],
        )
        assert served[0, 0] == pytest.approx(offline[row], abs=1e-6)


def test_padding_scores_zero_and_unknown_videos_have_index_zero(scorer: Scorer) -> None:
    assert scorer.score(["u1"], [np.empty(0, np.int32)], [np.empty(0)], np.array([0]), np.array([[0, 0]])).tolist() == [[0.0, 0.0]]
    assert scorer.index_of("nowhere") == 0
    assert scorer.item_ids[scorer.index_of("v7")] == "v7"


def test_items_that_are_not_what_training_had_are_refused(
    scorer: Scorer, data: RankingData, raw: dict[str, pa.Table], settings: Ranker
) -> None:
    items = joined(raw, settings)
    with pytest.raises(DataError, match="trained with 'author_id' of each video, which is not there now"):
        scorer.with_items(items.drop_columns("author_id"))
    column = items.column_names.index("audio")
    other = items.set_column(column, "audio", pa.array([[1.0]] * 40, pa.list_(pa.float32())))
    with pytest.raises(DataError, match="trained with 3 numbers in 'audio', which has 1 now"):
        scorer.with_items(other)
    broken = items.set_column(column, "audio", pa.array([[1.0, 2.0, np.inf]] * 40, pa.list_(pa.float32())))
    with pytest.raises(DataError, match="finite"):
        scorer.with_items(broken)


def test_a_misspelt_model_is_named(data: RankingData, settings: Ranker) -> None:
    with pytest.raises(ConfigError, match="no model 'wide_dep'; did you mean 'wide_deep'"):
        Scorer.untrained(settings.model_copy(update={"model": "wide_dep"}), data)


def without_settings(content: dict[str, Any]) -> str:
    del content["settings"]
    return json.dumps(content)


def with_words_for_scales(content: dict[str, Any]) -> str:
    content["users"]["scales"]["age"] = ["twenty", 1.0]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            without_settings,
            r"ranker.json: this version can't read the ranker \(settings: is missing\); run `rayrec train CONFIG` again",
        ),
        (with_words_for_scales, r"\(users.scales.age.0: must be a number"),
        (lambda content: "{", "the file: Invalid JSON"),
    ],
)
def test_a_ranker_that_can_not_be_read_is_refused(
    scorer: Scorer, tmp_path: Path, change: Callable[[dict[str, Any]], str], sentence: str
) -> None:
    scorer.save(pafs.LocalFileSystem(), str(tmp_path))
    file = tmp_path / "ranker.json"
    file.write_text(change(json.loads(file.read_text())))
    with pytest.raises(RankerError, match=sentence):
        Scorer.load(pafs.LocalFileSystem(), str(tmp_path))


def test_a_missing_ranker_and_weights_of_another_model_are_refused(scorer: Scorer, tmp_path: Path) -> None:
    with pytest.raises(RankerError, match="there is no ranker here; run `rayrec train CONFIG`"):
        Scorer.load(pafs.LocalFileSystem(), str(tmp_path / "nothing"))
    scorer.save(pafs.LocalFileSystem(), str(tmp_path))
    file = tmp_path / "ranker.json"
    content = json.loads(file.read_text())
    content["settings"]["hidden"] = [8, 7]
    file.write_text(json.dumps(content))
    with pytest.raises(RankerError, match="the weights are not those of the model 'wide_deep'"):
        Scorer.load(pafs.LocalFileSystem(), str(tmp_path))


def test_encoders_keep_their_types(scorer: Scorer, tmp_path: Path) -> None:
    scorer.save(pafs.LocalFileSystem(), str(tmp_path))
    loaded = Scorer.load(pafs.LocalFileSystem(), str(tmp_path))
    assert loaded.user_encoder == scorer.user_encoder
    assert isinstance(loaded.user_encoder.scales["age"], tuple)
    assert loaded.item_encoder == scorer.item_encoder
    assert loaded.context_encoder == scorer.context_encoder
