"""Where a user looks at a cover: from the ranker's kernels, through the replica that ranks, to the answer over HTTP."""

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from rayrec.config import Config
from rayrec.data.loading import RANKER
from rayrec.ranking.scorer import Scorer
from rayrec.serving.additions import AddedVideo
from rayrec.serving.attention import Attention, StageAttention
from rayrec.serving.bundle import locate
from rayrec.serving.cluster.ranker import Missing, NeuralRanker
from rayrec.serving.placing import Placer
from rayrec.serving.recommender import Recommender
from rayrec.serving.state.store import Addition
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.ranking import MAP_SHAPE
from tests.serving.http.conftest import api as api
from tests.serving.http.conftest import client as client
from tests.serving.http.conftest import metrics as metrics
from tests.serving.http.helpers import error
from tests.serving.small_world import TRAIN, build_workspace

KNOWN = Attention(2, 0.875, True, [StageAttention(3, 0.3, [0.1, 0.2, 0.3, 0.4]), StageAttention(1, -0.1, [0.7, 0.1, 0.1, 0.1])])


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A workspace with a bundle whose ranker has user kernels, with weights at random."""
    config = build_workspace(tmp_path_factory.mktemp("kernels"))
    config = config.model_copy(update={"ranker": config.ranker.model_copy(update={"user_kernels": True})})
    workspace = Workspace(config.workspace)

    def spread(run: StageRun) -> None:
        TRAIN.work(run)
        scorer = Scorer.load(run.fs, f"{run.folder}/{RANKER}")
        torch.manual_seed(1)
        for parameter in scorer.model.user_kernels.parameters():  # type: ignore[union-attr]
            torch.nn.init.normal_(parameter, std=0.5)
        scorer.save(run.fs, f"{run.folder}/{RANKER}")

    for stage in (replace(TRAIN, work=spread), load_stage("publish")):
        run_stage(workspace, stage, config)
    return config


def test_all_stages_together_count_by_their_logits() -> None:
    assert KNOWN.logit == pytest.approx(0.2)
    assert KNOWN.places == pytest.approx(
        [0.75 * a + 0.25 * b for a, b in zip([0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], strict=True)]
    )
    silent = Attention(1, 1.0, False, [StageAttention(3, 0.0, [0.2, 0.8]), StageAttention(3, 0.0, [0.4, 0.6])])
    assert silent.places == pytest.approx([0.3, 0.7])


def test_the_ranker_says_where_a_user_looks(kernels: Config) -> None:
    ranker, workspace = NeuralRanker(str(Path(kernels.workspace))), Workspace(kernels.workspace)
    version, _ = locate(workspace, None)
    scorer = ranker.scorers.get(version)
    model = scorer.model.user_kernels
    assert model is not None
    item = scorer.index_of("v5")
    found = asyncio.run(ranker.look(version, "u2", item))
    assert isinstance(found, Attention)
    assert (found.side, found.seen, found.known) == (MAP_SHAPE.side, MAP_SHAPE.seen, True)
    assert [stage.kernel for stage in found.stages] == list(MAP_SHAPE.kernels)
    expected = model(torch.tensor([scorer.users.index["u2"]]), torch.tensor([[item]])).item()
    assert found.logit == pytest.approx(expected, abs=1e-5)
    assert sum(found.places) == pytest.approx(1, abs=1e-5)
    stranger = asyncio.run(ranker.look(version, "nobody", item))
    assert isinstance(stranger, Attention)
    assert not stranger.known
    assert stranger.places != pytest.approx(found.places, abs=1e-4)
    assert asyncio.run(ranker.look(version, "u2", scorer.index_of("v2"))) == "the video has no feature maps of its cover"


def test_a_ranker_without_kernels_says_so(published: Config) -> None:
    ranker = NeuralRanker(published.workspace)
    version, _ = locate(Workspace(published.workspace), None)
    assert asyncio.run(ranker.look(version, "u2", 3)) == "the ranker has no user kernels (ranker.user_kernels)"


def test_an_added_video_is_looked_at_as_if_it_had_been_in_the_catalog(media_world: Config) -> None:
    ranker, workspace = NeuralRanker(media_world.workspace), Workspace(media_world.workspace)
    version, folder = locate(workspace, None)
    scorer, placer = ranker.scorers.get(version), Placer.load(workspace.fs, folder)
    late, there = len(scorer.item_ids), scorer.index_of("v5")
    assert asyncio.run(ranker.look(version, "u2", late)) == Missing([1])  # it asks for the video
    facts = next(row for row in workspace.read("catalog").to_pylist() if row["video_id"] == "v5") | {"video_id": "again"}
    described, _, _ = placer.describe(placer.decode(facts, 60), facts)
    bare = AddedVideo({"video_id": "bare", "title": "bare"})
    added = [Addition(number, video.video_id, "m", video.to_json()) for number, video in enumerate((described, bare), 1)]
    asyncio.run(ranker.take(version, added))
    found, known = (asyncio.run(ranker.look(version, "u2", item)) for item in (late, there))
    assert isinstance(found, Attention)
    assert isinstance(known, Attention)
    assert found.places == pytest.approx(known.places, abs=1e-4)
    assert found.logit == pytest.approx(known.logit, abs=1e-4)
    assert asyncio.run(ranker.look(version, "u2", late + 1)) == "the video has no feature maps of its cover"
    nobody = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    assert 0 < scorer.score(["u2"], *nobody, np.array([0]), np.array([[late + 1]]))[0, 0] < 1
    placer.close()


def test_the_answer_over_http(client: httpx.Client, recommender: Recommender) -> None:
    asked: list[tuple[str, int]] = []

    async def look(user_id: str, item: int) -> Attention | str:
        asked.append((user_id, item))
        return KNOWN

    recommender.look = look
    answer = client.get("/v1/videos/v6/attention?user_id=u2").json()
    assert asked == [("u2", recommender.items.find("v6"))]
    assert (answer["user_id"], answer["video_id"], answer["known"], answer["seen"]) == ("u2", "v6", True, 0.875)
    assert np.array(answer["places"]).shape == (2, 2)
    assert np.array(answer["places"]).ravel() == pytest.approx(KNOWN.places, abs=1e-5)
    assert [stage["kernel"] for stage in answer["stages"]] == [3, 1]
    assert answer["reason"] is None


def test_whoever_is_forgotten_looks_as_a_stranger(client: httpx.Client, recommender: Recommender) -> None:
    asked: list[str] = []

    async def look(user_id: str, item: int) -> Attention | str:
        asked.append(user_id)
        return "the video has no feature maps of its cover"

    recommender.look = look
    client.delete("/v1/users/u2")
    answer = client.get("/v1/videos/v6/attention?user_id=u2").json()
    assert asked == [""]
    assert answer["places"] is None
    assert answer["reason"] == "the video has no feature maps of its cover"


def test_what_can_not_be_answered(client: httpx.Client) -> None:
    assert client.get("/v1/videos/v6/attention?user_id=u2").json()["reason"] == "the bundle has no ranker"
    assert error(client.get("/v1/videos/v99/attention?user_id=u2"), 404) == "there is no video 'v99'"
    assert error(client.get("/v1/videos/v6/attention"), 422).startswith("user_id is missing")
    assert error(client.get("/v1/videos/v6/attention?user_id="), 422).startswith("user_id: must not be empty")
