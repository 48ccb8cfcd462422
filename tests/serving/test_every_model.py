"""Every model is trained, saved, published and served; the served scores of 600 candidates equal the offline scores.

So they are with several goals, each of whose values is served.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayrec.config import Config, Ranker
from rayrec.data.batches import Batch
from rayrec.data.context import DAY_MS
from rayrec.data.loading import RANKER
from rayrec.data.windows import HistoryGather
from rayrec.ranking.goals import SeveralGoals
from rayrec.ranking.scorer import Scorer
from rayrec.serving.bundle import Bundle, locate
from rayrec.serving.cluster.ranker import NeuralRanker, RankRequest
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log
from tests.fixtures.ranking import MODELS, with_model
from tests.serving.small_world import TRAIN, build_workspace

CANDIDATES = 600
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return build_workspace(tmp_path_factory.mktemp("models"))


GOALS = {
    "click": "clicked",
    "odds": {"label": "clicked", "loss": "weighted_logistic"},
    "spread": {"label": "clicked", "loss": "quantiles"},
}


@pytest.mark.parametrize("goals", [{}, GOALS], ids=["click", "several goals"])
@pytest.mark.parametrize("name", MODELS)
def test_served_scores_are_those_of_the_trained_model(small_world: Config, name: str, goals: dict[str, Any]) -> None:
    values = {"history_length": 8, "context_fields": ["hour"], "popularity": [1.0, 7.0], "user_kernels": True, "goals": goals}
    ranker = with_model(Ranker.model_validate(small_world.ranker.model_dump() | values), name)
    config, workspace = small_world.model_copy(update={"ranker": ranker}), Workspace(small_world.workspace)
    for stage in (TRAIN, load_stage("publish")):
        run_stage(workspace, stage, config)
    trained = Scorer.load(workspace.fs, f"{workspace.folder('train')}/{RANKER}")
    assert (trained.settings.model, trained.settings.options) == (ranker.model, ranker.options)
    data = whole_log(workspace, config)
    rows = np.arange(0, len(data.test), 7)
    # A bundle knows how popular videos were at the end of the log, so requests come a day after it.
    user, at, end = data.test.user[rows], data.test.at[rows] + DAY_MS, data.test.end[rows]
    items = np.random.default_rng(0).integers(1, len(data.items.ids), (len(rows), CANDIDATES)).astype(np.int32)

    users = torch.from_numpy(user).long()
    history, times = HistoryGather(data.clicks, trained.model.window, CPU)(users, torch.from_numpy(end))
    context = torch.from_numpy(data.test.context[rows]).long()
    with torch.inference_mode():
        batch = Batch(users, torch.from_numpy(at), history, times, context, torch.from_numpy(items).long())
        model = trained.model.eval()
        offline = model.values(batch) if isinstance(model, SeveralGoals) else torch.sigmoid(model.score(batch))[..., None]

    served = NeuralRanker(str(Path(config.workspace)))
    version, folder = locate(workspace, None)
    clicks, calls = data.clicks, []
    for row in range(len(rows)):
        known = slice(clicks.offsets[user[row]], end[row])
        past = clicks.items[known].tobytes(), clicks.times[known].tobytes()
        calls.append(RankRequest(data.users.ids[user[row]], *past, int(at[row]), items[row].tobytes(), {}))
    scores = np.stack([np.frombuffer(answer, np.float32) for answer in served.rank_together(version, calls)])
    np.testing.assert_allclose(scores.reshape(offline.shape), offline.numpy(), atol=1e-5)
    assert offline.std(dim=1).min() > 0
    assert Bundle.load(workspace.fs, folder, version).info.goals == list(goals)
