"""Items that are appended to a ranker get the scores that they get in a ranker that was built with them."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import Ranker
from rayrec.data.errors import DataError
from rayrec.data.loading import RankingData
from rayrec.ranking.gathering import Rows
from rayrec.ranking.scorer import Scorer
from tests.fixtures.ranking import MODELS, joined
from tests.ranking.impressions import untrained


def test_rows_that_were_appended_are_found_and_the_first_ones_stay_where_they_are() -> None:
    whole = torch.arange(60.0).reshape(10, 3, 2)
    rows = Rows(whole[:6])
    for part in (whole[6:7], whole[7:]):
        rows.append(part)
    assert len(rows) == 10
    assert rows.first.data_ptr() == whole.data_ptr()  # not copied
    assert torch.equal(rows[torch.tensor([[9, 0], [6, 5]])], whole[torch.tensor([[9, 0], [6, 5]])])
    assert torch.equal(rows[torch.arange(6)], whole[:6])
    assert torch.equal(rows.of_columns(slice(1, 3), torch.tensor([8, 2])), whole[torch.tensor([8, 2]), 1:3])
    assert not rows.state_dict()


@pytest.mark.parametrize("fusion", ["concat", "attention", "user_attention"])
@pytest.mark.parametrize("model", MODELS)
def test_an_appended_item_scores_like_one_that_was_there(
    model: str, fusion: str, raw: dict[str, pa.Table], settings: Ranker, data: RankingData
) -> None:
    trained = untrained(model, data, settings.model_copy(update={"fusion": fusion, "user_kernels": True}), spread=0.3)
    items = joined(raw, settings)
    whole, first = trained.with_items(items), trained.with_items(items.slice(0, 25))
    frozen = trained.with_items(items.slice(0, 25))
    assert (frozen.freeze(2**30) > 0) == (model not in ("lr", "user_kernel") and (fusion != "user_attention" or model == "acf"))
    for start, count in ((25, 1), (26, items.num_rows - 26)):
        first.append_items(items.slice(start, count))
        frozen.append_items(items.slice(start, count))
    assert len(first.item_ids) == 26
    candidates = np.arange(1, items.num_rows + 1)[None]
    history, times = np.array([3, 30, 27], np.int32), np.array([10, 20, 30])
    arguments = (["u1"], [history], [times], np.array([40]), candidates)
    np.testing.assert_allclose(first.score(*arguments), whole.score(*arguments), atol=1e-6)
    np.testing.assert_allclose(frozen.score(*arguments), whole.score(*arguments), atol=1e-6)
    assert whole.score(*arguments)[0, 25:].std() > 0


def test_what_an_appended_item_lacks_is_unknown_and_other_sizes_are_refused(settings: Ranker, data: RankingData) -> None:
    torch.manual_seed(0)
    scorer = Scorer.untrained(settings, data)
    scorer.append_items(pa.table({"video_id": ["new"], "title": ["not a field"]}))
    last = len(scorer.item_ids)
    nobody = [np.empty(0, np.int32)]
    assert 0 < scorer.score(["u1"], nobody, nobody, np.array([0]), np.array([[last]]))[0, 0] < 1
    wrong = pa.table({"video_id": ["other"], "audio": pa.array([[1.0]], pa.list_(pa.float32()))})
    with pytest.raises(DataError, match="trained with 3 numbers in 'audio', which has 1 now"):
        scorer.append_items(wrong)
