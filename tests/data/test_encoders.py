"""Encoders are fitted on the training split alone, and refuse what no ranker can be trained on."""

from typing import Any

import pyarrow as pa
import pytest

from rayrec.config import Ranker, Split
from rayrec.data.encoders import item_columns
from rayrec.data.errors import DataError
from rayrec.data.loading import RankingData, join_items, prepare


def test_unseen_videos_and_users_are_unknown_but_keep_their_content(data: RankingData) -> None:
    trained = {data.items.ids[i] for i in data.train.item}
    value_of = dict(zip(data.items.ids, data.items.categorical["video_id"].tolist(), strict=True))
    assert {name for name, value in value_of.items() if value} == trained
    assert bool((data.items.multivalued["topics"][1:] > 0).any(-1).all())
    assert data.items.vectors["audio"][31:].abs().sum() == 0  # no audio: zeros, the mean of the standardised ones
    assert data.users.numeric["age"].shape == (len(data.users.ids),)


def test_a_training_split_without_clicks_is_refused(raw: dict[str, pa.Table]) -> None:
    log = raw["interactions"].sort_by("shown_at")
    log = log.set_column(log.column_names.index("clicked"), "clicked", pa.array([False] * 540 + [True] * 60))
    with pytest.raises(DataError, match="impressions of the training split none was clicked"):
        prepare(log, raw["catalog"], None, Ranker(), Split())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"item_fields": ["autor_id"]}, r"ranker.item_fields: the catalog has no column 'autor_id'; did you mean 'author_id'\?"),
        ({"context_fields": ["devise"]}, r"ranker.context_fields: the log has no column 'devise'; did you mean 'device'\?"),
        ({"modalities": ["motion"]}, r"ranker.modalities: no video has a vector 'motion' in `vectors` \(known: cover, audio\)"),
    ],
)
def test_settings_that_name_a_missing_column_are_refused(raw: dict[str, pa.Table], settings: dict[str, Any], sentence: str) -> None:
    vectors = raw["vectors"].append_column("motion", pa.nulls(30, pa.list_(pa.float32())))
    items = join_items(raw["catalog"], None, vectors, ["audio", "cover", "motion"])
    with pytest.raises(DataError, match=sentence):
        prepare(raw["interactions"], items, None, Ranker(**settings), Split())


def test_numbers_that_are_not_finite_are_refused_with_their_row(raw: dict[str, pa.Table]) -> None:
    users = pa.table({"user_id": ["u1", "u2"], "age": [20.0, float("nan")]})
    with pytest.raises(DataError, match="column 'age' of user_id 'u2' holds nan"):
        prepare(raw["interactions"], raw["catalog"], users, Ranker(), Split())
    vectors = pa.table({"video_id": ["v3"], "audio": pa.array([[1.0, float("inf")]], pa.list_(pa.float32()))})
    items = join_items(raw["catalog"], None, vectors, ["audio"])
    with pytest.raises(DataError, match="column 'audio' of video_id 'v3' holds inf"):
        prepare(raw["interactions"], items, None, Ranker(modalities=["audio"]), Split())


def test_a_catalog_column_without_values_is_left_out(raw: dict[str, pa.Table]) -> None:
    catalog = raw["catalog"].append_column("primary_class", pa.nulls(raw["catalog"].num_rows, pa.string()))
    assert item_columns(Ranker(item_fields=["primary_class", "secondary_class", "tags"]), catalog) == ["video_id", "tags"]
