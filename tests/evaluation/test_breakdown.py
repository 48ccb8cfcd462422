"""Parts of the test split against a loop, and a modality that is taken away."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from rayrec.config import Ranker, Split
from rayrec.data.loading import RankingData, prepare
from rayrec.evaluation.breakdown import (
    PARTS,
    by_history,
    by_novelty,
    history_lengths,
    seen_in_training,
    without_ids,
    without_modality,
)
from rayrec.ranking.scorer import Scorer

ROWS = 400


def data(settings: Ranker, audio: bool = True) -> RankingData:
    """One eager user and one who is not, and videos of which some have a cover and all have sound, unless told otherwise."""
    rng = np.random.default_rng(0)
    log = pa.table(
        {
            "user_id": [f"u{i}" for i in (rng.random(ROWS) < 0.1).astype(int)],
            "video_id": [f"v{i}" for i in rng.integers(0, 20, ROWS)],
            "shown_at": np.arange(ROWS) * 60_000,
            "clicked": rng.random(ROWS) < 0.3,
        }
    )
    vectors = rng.normal(size=(2, 20, 4)).astype(np.float32)
    items = {
        "video_id": [f"v{i}" for i in range(20)],
        "cover": pa.array([None, *vectors[0, 1:]], pa.list_(pa.float32())),
        "audio": pa.array(list(vectors[1]), pa.list_(pa.float32())),
    }
    data = prepare(log, pa.table(items), None, settings, Split(validation=0.2, test=0.5))
    if not audio:
        data.items.vectors["audio"] = torch.zeros(21, 4)
    return data


def test_parts_by_the_clicks_known_before_against_a_loop() -> None:
    found = data(Ranker())
    test, probability = found.test, np.random.default_rng(1).random(ROWS // 2)
    moments = zip(test.user, test.at, strict=True)
    owners = np.repeat(np.arange(len(found.users.ids)), np.diff(found.clicks.offsets))
    known = np.array([sum((owners == user) & (found.clicks.times < at)) for user, at in moments])
    np.testing.assert_array_equal(history_lengths(found.clicks, test), known)

    parts = by_history(known, test.clicked, probability)
    limits = {"<=10": (0, 10), "11-15": (11, 15), "16-20": (16, 20), "21-25": (21, 25)}
    limits |= {"26-30": (26, 30), "31-35": (31, 35), ">35": (36, 9999)}
    assert list(limits) == PARTS
    expected = {}
    for name, (low, high) in limits.items():
        rows = [row for row in range(len(known)) if low <= known[row] <= high]
        if rows:
            clicked, said = test.clicked[rows], probability[rows]
            auc = roc_auc_score(clicked, said) if len(set(clicked)) == 2 else float("nan")
            metrics = {"auc": auc, "log_loss": log_loss(clicked, said, labels=[False, True])}
            expected[name] = {"impressions": len(rows), **metrics, "accuracy": accuracy_score(clicked, said >= 0.5)}
    assert 2 <= len(expected) < len(PARTS)
    assert list(parts) == list(expected)
    for name, metrics in expected.items():
        assert parts[name] == pytest.approx(metrics, nan_ok=True)


@pytest.mark.parametrize("fusion", ["concat", "attention", "user_attention"])
def test_without_a_modality_a_ranker_scores_as_if_no_video_had_it(fusion: str) -> None:
    settings = Ranker(modalities=["cover", "audio"], fusion=fusion, embedding_size=4, hidden=[8])
    torch.manual_seed(0)
    whole = Scorer.untrained(settings, data(settings))
    for parameter in whole.model.parameters():
        torch.nn.init.normal_(parameter)
    never = Scorer.untrained(settings, data(settings, audio=False))
    never.model.load_state_dict(whole.model.state_dict())
    request = ["u0"], [np.array([3, 5])], [np.array([1, 2])], np.array([9]), np.arange(1, 21)[None]
    blind = without_modality(whole, "audio")
    np.testing.assert_array_equal(blind.score(*request), never.score(*request))
    assert np.abs(blind.score(*request) - whole.score(*request)).max() > 1e-3
    assert whole.items.vectors["audio"].any()


def test_videos_that_training_has_seen_and_others() -> None:
    rng = np.random.default_rng(0)
    seen, clicked = rng.random(300) < 0.7, rng.random(300) < 0.4
    probability, without = rng.random(300), rng.random(300)
    found = by_novelty(seen, clicked, probability, without)
    assert list(found) == ["seen", "unseen", "seen, ids hidden"]
    for name, rows, said in (("seen", seen, probability), ("unseen", ~seen, probability), ("seen, ids hidden", seen, without)):
        assert found[name]["impressions"] == rows.sum()
        assert found[name]["auc"] == pytest.approx(roc_auc_score(clicked[rows], said[rows]))
    assert "unseen" not in by_novelty(np.ones(300, bool), clicked, probability, without)


def test_without_ids_a_video_is_scored_as_if_it_had_come_after_training() -> None:
    settings = Ranker(modalities=["cover", "audio"], embedding_size=4, hidden=[8])
    torch.manual_seed(0)
    whole = Scorer.untrained(settings, data(settings))
    for parameter in whole.model.parameters():
        torch.nn.init.normal_(parameter)
    hidden = without_ids(whole)
    assert seen_in_training(whole)[1:].all()
    assert not seen_in_training(hidden).any()
    nobody = [np.empty(0, np.int32)]
    request = ["u0"], nobody, nobody, np.array([9])
    table = pa.table(
        {
            "video_id": ["new"],
            **{
                name: pa.array([(whole.items.vectors[name][7].numpy() * deviations + means).tolist()], pa.list_(pa.float32()))
                for name, (means, deviations) in whole.item_encoder.vector_scales.items()
            },
        }
    )
    whole.append_items(table)  # item 21 has the content of item 7
    found = whole.score(*request, np.array([[7, 21]]))[0]
    assert hidden.score(*request, np.array([[7]]))[0, 0] == pytest.approx(found[1], abs=1e-5)
    assert abs(found[0] - found[1]) > 1e-3
