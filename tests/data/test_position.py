"""Training learns from the position of each impression; whatever is scored has one and the same position."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import Config, Ranker, Split, Training
from rayrec.data.batches import batches
from rayrec.data.context import ContextEncoder
from rayrec.data.loading import RankingData, prepare
from rayrec.data.windows import HistoryGather
from rayrec.ranking.fitting import train_ranker
from rayrec.ranking.scorer import Scorer
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log

CPU, ROWS = torch.device("cpu"), 200
SETTINGS = Ranker(context_fields=["device", "position"], item_fields=[], topics=False)


def log() -> pa.Table:
    """Positions from 3 to 12, some of which are not known; 12 sorts before 3 as text."""
    rng = np.random.default_rng(0)
    position = [None if draw == 13 else int(draw) for draw in rng.integers(3, 14, ROWS)]
    names = {name: [f"{name[0]}{i}" for i in rng.integers(0, 9, ROWS)] for name in ("user_id", "video_id", "device")}
    return pa.table(names | {"shown_at": np.arange(ROWS), "clicked": rng.random(ROWS) < 0.5, "position": position})


def catalog() -> pa.Table:
    return pa.table({"video_id": [f"v{i}" for i in range(9)]})


def from_files(folder: Path) -> RankingData:
    def write(run: StageRun) -> None:
        run.write("interactions", log())
        run.write("catalog", catalog())
        run.count(ROWS, ROWS)

    run_stage(Workspace(folder), Stage("ingest", write, writes=("catalog", "interactions")), Config(workspace=str(folder)))
    return whole_log(Workspace(folder), Config(workspace=str(folder), ranker=SETTINGS))


@pytest.mark.parametrize("in_memory", [True, False])
def test_only_the_training_part_has_its_positions(tmp_path: Path, in_memory: bool) -> None:
    data = prepare(log(), catalog(), None, SETTINGS, Split()) if in_memory else from_files(tmp_path)
    words = data.context_encoder.vocabularies["position"]
    position = [["", *words][value] for value in data.train.context[:, 1].tolist()]
    assert position == [str(row["position"] or "") for row in log().to_pylist()[: len(data.train)]]
    assert {words[value - 1] for part in (data.validation, data.test) for value in part.context[:, 1].tolist()} == {"3"}
    device = [data.context_encoder.vocabularies["device"][value - 1] for value in data.test.context[:, 0].tolist()]
    assert device == log()["device"].to_pylist()[-len(data.test) :]


def test_a_request_has_the_same_position_whatever_it_says() -> None:
    encoder = ContextEncoder.fit(["position", "net"], {"position": pa.array([10, 9, 2, None]), "net": pa.array(["a"])}.__getitem__)
    values = encoder.encode_requests([{"position": 10, "net": "a"}, {"net": "a"}, {"position": "none"}], np.arange(3))
    neutral = 1 + encoder.vocabularies["position"].index("2")
    assert values.tolist() == [[neutral, 1], [neutral, 1], [neutral, 0]]


def test_a_log_without_positions_is_scored_without() -> None:
    encoder = ContextEncoder.fit(["position"], lambda name: pa.array([None, None], pa.int32()))
    assert encoder.encode_requests([{"position": 1}], np.arange(1)).tolist() == [[0]]


def scored(scorer: Scorer, data: RankingData, row: int, context: dict[str, Any]) -> float:
    """What serving answers for the request of a test example."""
    known = slice(data.clicks.offsets[data.test.user[row]], data.test.end[row])
    history = [data.clicks.items[known]], [data.clicks.times[known]]
    user, item = [data.users.ids[data.test.user[row]]], data.test.item[row : row + 1][None]
    return float(scorer.score(user, *history, data.test.at[row : row + 1], item, [context])[0, 0])


def test_the_served_score_is_the_offline_one_whatever_the_position() -> None:
    data = prepare(log(), catalog(), None, SETTINGS, Split())
    scorer, _ = train_ranker(data, SETTINGS, Training(epochs=2), 0)
    gather = HistoryGather(data.clicks, scorer.model.window, CPU)
    with torch.inference_mode():
        offline = torch.cat([torch.sigmoid(scorer.model.eval()(batch)) for batch in batches(data.test, gather, 50, CPU)])[:, 0]
    device = log()["device"].to_pylist()[-len(data.test) :]
    for row in range(len(data.test)):
        for position in (None, 5):
            assert abs(scored(scorer, data, row, {"device": device[row], "position": position}) - float(offline[row])) < 1e-5


def test_videos_are_not_blamed_for_their_positions() -> None:
    """Both are clicked alike where they are; but one was mostly first, where everything is clicked more often."""
    rng = np.random.default_rng(1)
    video, rows = np.arange(6000) % 2, 6000
    first = rng.random(rows) < np.where(video == 0, 0.85, 0.15)
    clicked = rng.random(rows) < np.where(first, 0.6, 0.15)
    columns = {"user_id": [f"u{n % 500}" for n in range(rows)], "video_id": [f"v{n}" for n in video], "shown_at": np.arange(rows)}
    shown = pa.table(columns | {"clicked": clicked, "position": np.where(first, 0, 1)})
    ratio = {}
    for fields in ([], ["position"]):
        settings = Ranker(context_fields=fields, item_fields=[], topics=False, id_dropout=0, dropout=0, history_connection="none")
        data = prepare(shown, catalog(), None, settings, Split())
        scorer, _ = train_ranker(data, settings, Training(epochs=8, batch_size=256), 0)
        nothing = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        scores = scorer.score(["nobody"], *nothing, np.array([rows]), np.array([[1, 2]]))[0]
        ratio[bool(fields)] = scores[0] / scores[1]
    assert ratio[False] > 1.8
    assert 0.85 < ratio[True] < 1.2
