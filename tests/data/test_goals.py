"""The labels of goals, in memory and from an encoded log."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from rayrec.config import Config, Ranker, Split, load
from rayrec.data.errors import DataError
from rayrec.data.loading import RankingData, prepare
from rayrec.data.shards import EncodedLog, example_schema
from rayrec.data.windows import HistoryGather, LatestClicks
from rayrec.stages import encode
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log

GOALS = {
    "click": "clicked",
    "like": "liked",
    "finish": {"label": "watch_share", "at_least": 0.9},
    "share": {"label": "watch_share"},
    "watch": {"label": "watch_s", "loss": "weighted_logistic"},
}
ROWS = 400


def log() -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "user_id": pa.array([f"u{i}" for i in rng.integers(0, 20, ROWS)], pa.large_string()),
            "video_id": pa.array([f"v{i}" for i in rng.integers(0, 12, ROWS)], pa.large_string()),
            "shown_at": np.arange(ROWS) * 3_600_000,
            "clicked": rng.random(ROWS) < 0.4,
            "liked": pa.array(rng.random(ROWS) < 0.2, mask=rng.random(ROWS) < 0.3),
            "watch_s": pa.array(rng.exponential(5, ROWS).astype(np.float32), mask=rng.random(ROWS) < 0.1),
        }
    )


def catalog() -> pa.Table:
    """v10 has no duration, and the log also has v11, which the catalog lacks."""
    durations = pa.array([*np.linspace(4, 10, 10), None], pa.float32())
    return pa.table({"video_id": [f"v{i}" for i in range(11)], "duration_s": durations})


def expected(table: pa.Table) -> list[list[float | None]]:
    """The labels of each row, computed one by one."""
    durations = dict(zip(*(catalog()[name].to_pylist() for name in ("video_id", "duration_s")), strict=True))
    found = []
    for row in table.to_pylist():
        watched, duration = row["watch_s"], durations.get(row["video_id"])
        share = None if watched is None or duration is None else min(watched / duration, 1)
        like, finish = (
            None if value is None else float(value) for value in (row["liked"], share if share is None else share >= 0.9)
        )
        found.append([float(row["clicked"]), like, finish, share, watched])
    return found


def as_numbers(rows: list[list[float | None]]) -> np.ndarray:
    return np.array([[np.nan if value is None else value for value in row] for row in rows], np.float32)


def settings(**values: object) -> Ranker:
    return Ranker.model_validate({"item_fields": [], "goals": GOALS} | values)


def in_memory(table: pa.Table, ranker: Ranker) -> RankingData:
    return prepare(table, catalog(), None, ranker, Split(validation=0.1, test=0.2))


def test_labels_are_those_of_the_log() -> None:
    data = in_memory(log(), settings())
    found = [part.goals for part in (data.train, data.validation, data.test)]  # type: ignore[union-attr]
    np.testing.assert_allclose(np.concatenate(found), as_numbers(expected(log())), rtol=1e-6)


def test_an_encoded_log_has_the_same_labels_in_its_batches(tmp_path: Path) -> None:
    def write(run: StageRun) -> None:
        run.write("interactions", log())
        run.write("catalog", catalog())
        run.count(ROWS, ROWS)

    plain = load(None, [f"workspace={tmp_path}", "encoding.shards=3", "ranker.item_fields=[]", "split.test=0.2"])
    config = Config.model_validate(plain.model_dump() | {"ranker": settings().model_dump()})
    workspace = Workspace(config.workspace)
    run_stage(workspace, Stage("ingest", write, writes=("catalog", "interactions")), config)
    data, other = whole_log(workspace, config), in_memory(log(), settings())
    for part, same in ((data.train, other.train), (data.validation, other.validation), (data.test, other.test)):
        order, same_order = (np.argsort(each.at, kind="stable") for each in (part, same))  # type: ignore[attr-defined]
        np.testing.assert_allclose(part.goals[order], same.goals[same_order], rtol=1e-6)  # type: ignore[union-attr, index]
    assert encode.settings(plain) == {name: value for name, value in encode.settings(config).items() if name != "labels"}
    encoded = EncodedLog.open(workspace.fs, workspace.folder("encode"))
    assert encoded.facts.labels == ["liked", "watch_share", "watch_s"]

    run_stage(workspace, encode.STAGE, plain)  # the same log without goals has no columns for them
    without = EncodedLog.open(workspace.fs, workspace.folder("encode"))
    assert without.facts.labels == []
    assert without.file("shard-00000.examples").schema == example_schema(without.facts.context)


def test_a_batch_has_the_labels_of_its_impressions_and_zeros_for_drawn_negatives() -> None:
    import torch

    from rayrec.config import Negatives, Training
    from rayrec.data.batches import training_batches
    from rayrec.data.negatives import NegativeSampler, click_pairs

    data, cpu = in_memory(log(), settings()), torch.device("cpu")
    items = len(data.items.ids)
    sampler = NegativeSampler.of(Negatives(count=2), click_pairs(data.train, items), np.zeros(items, np.int64), cpu)
    gather = HistoryGather(data.clicks, LatestClicks(3), cpu)
    seen = 0
    for batch, _ in training_batches(data.train, gather, Training(batch_size=50), cpu, 0, 0, 0, sampler):
        assert batch.goals is not None
        assert batch.labels is not None
        assert batch.goals.shape == (*batch.candidates.shape, len(GOALS))
        assert not batch.goals[:, 1:].any()
        assert torch.equal(batch.goals[:, 0, 0], batch.labels[:, 0])
        seen += len(batch.user)
    assert seen == len(data.train)


@pytest.mark.parametrize(
    ("goal", "sentence"),
    [
        ({"label": "likd"}, "ranker.goals.goal: the log has no column 'likd'; did you mean 'liked'\\?"),
        (
            {"label": "watch_s"},
            "ranker.goals.goal: the column 'watch_s' of the log holds .*, but a label of this goal is from 0 to 1",
        ),
        ({"label": "video_id"}, "the column 'video_id' of the log holds large_string; a label is a number or a boolean"),
        ({"label": "worse", "loss": "quantiles"}, "the column 'worse' of the log holds -1, but a label of this goal is 0 or more"),
    ],
)
def test_a_column_that_can_not_be_learned_from_is_refused(goal: dict[str, object], sentence: str) -> None:
    table = log().append_column("worse", pa.array(np.full(ROWS, -1.0)))
    with pytest.raises(DataError, match=sentence):
        in_memory(table, settings(goals={"click": "clicked", "goal": goal}))


def test_a_goal_without_any_value_in_training_is_refused(tmp_path: Path) -> None:
    def write(run: StageRun) -> None:
        table = log().drop_columns(["watch_s"])
        run.write("interactions", table.append_column("watch_s", pa.nulls(ROWS, pa.float32())))
        run.write("catalog", catalog())
        run.count(ROWS, ROWS)

    plain = load(None, [f"workspace={tmp_path}", "encoding.shards=3", "ranker.item_fields=[]", "split.test=0.2"])
    config = Config.model_validate(plain.model_dump() | {"ranker": settings().model_dump()})
    run_stage(Workspace(config.workspace), Stage("ingest", write, writes=("catalog", "interactions")), config)
    with pytest.raises(DataError, match="no impression of the training split has a value in the column 'watch_s"):
        run_stage(Workspace(config.workspace), encode.STAGE, config)


def test_what_a_goal_predicts_is_no_context() -> None:
    with pytest.raises(ValidationError, match="'liked' is no context"):
        settings(context_fields=["liked"])
    with pytest.raises(ValidationError, match="context_fields: 'shared' is what a goal predicts"):
        settings(context_fields=["shared"], goals={"click": "clicked", "share": "shared"})


def test_shares_need_seconds_and_durations() -> None:
    with pytest.raises(DataError, match=r"the log has no column 'watch_s', of which 'watch_share' is made"):
        in_memory(log().drop_columns(["watch_s"]), settings(goals={"click": "clicked", "share": "watch_share"}))
    with pytest.raises(DataError, match="'watch_share' needs the duration_s of videos"):
        prepare(log(), catalog().drop_columns(["duration_s"]), None, settings(), Split())


def test_the_log_is_encoded_for_the_goals_of_all_arms() -> None:
    arm = {"ranker.goals": {"click": "clicked", "like": "liked"}}
    config = load(None, ["tuning.space={ranker.goals: [{click: clicked, watch: {label: watch_s, loss: quantiles}}]}"])
    config = config.model_copy(update={"comparison": config.comparison.model_copy(update={"arms": {"several": arm}})})
    assert encode.settings(config)["labels"] == [["like", "liked", 0.0, 1.0], ["watch", "watch_s", 0.0, None]]
