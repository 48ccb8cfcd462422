"""An encoded log holds what the log holds, in the batches that a log in memory has, whoever shares it."""

from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import Config, Negatives, load
from rayrec.data import blocks
from rayrec.data.batches import Batch, training_batches
from rayrec.data.errors import DataError
from rayrec.data.loading import RankingData, prepare, ranking_data
from rayrec.data.negatives import NegativeSampler, click_pairs
from rayrec.data.pages import NO_PAGES
from rayrec.data.shards import EncodedLog
from rayrec.data.shares import Share
from rayrec.data.windows import HistoryGather, LatestClicks
from rayrec.stages import encode
from rayrec.training.exchange import Worker
from rayrec.workspace.parts import write_part
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace

CPU, ROWS, USERS = torch.device("cpu"), 900, 30


def log() -> pa.Table:
    """Users of very different diligence; videos that the catalog lacks; values that are missing or no number; late clicks."""
    rng = np.random.default_rng(0)
    at = np.sort(rng.integers(0, 400, ROWS)) * 3_600_000
    clicked = rng.random(ROWS) < 0.4
    return pa.table(
        {
            "user_id": pa.array([f"u{int(USERS * draw**3)}" for draw in rng.random(ROWS)], pa.large_string()),
            "video_id": pa.array([f"v{i}" for i in rng.integers(0, 30, ROWS)], pa.large_string()),
            "shown_at": at,
            "clicked": clicked,
            "clicked_at": pa.array(at + rng.integers(0, 9**8, ROWS), mask=~clicked),
            "device": pa.array([[None, "tv", "phone", "web"][i] for i in rng.integers(0, 4, ROWS)]),
            "speed": pa.array([[float("nan"), 1.0, 2.5, None][i] for i in rng.integers(0, 4, ROWS)]),
        }
    )


def catalog() -> pa.Table:
    return pa.table({"video_id": [f"v{i}" for i in range(28)]})


def users() -> pa.Table:
    return pa.table({"user_id": ["stranger", "u3"], "age": pa.array([3, 4])})


def write_tables(run: StageRun, changed: pa.Table | None = None) -> None:
    """As large logs are: several part files, one of which is empty."""
    rows = log() if changed is None else changed
    for number, (start, count) in enumerate(((0, 250), (250, 0), (250, 400), (650, ROWS))):
        write_part(run.fs, f"{run.folder}/interactions", "interactions", number, rows.slice(start, count))
    run.record_parts("interactions", ROWS)
    run.write("catalog", catalog())
    run.write("users", users())
    run.count(ROWS, ROWS)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    overrides = {
        "workspace": tmp_path,
        "encoding.shards": 5,
        "training.batch_size": 64,
        "training.cut_histories": 0.3,
        "training.hidden_clicks": 0.1,
        "ranker.context_fields": "[device, hour, speed]",
    }
    config = load(None, [f"{key}={value}" for key, value in overrides.items()])
    run_stage(Workspace(config.workspace), Stage("ingest", write_tables, writes=("catalog", "interactions", "users")), config)
    return config


@pytest.fixture(params=[blocks.BLOCK_ROWS, 100], ids=["one block", "several blocks"])
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", request.param)
    return int(request.param)


def encoded(config: Config) -> tuple[Workspace, EncodedLog]:
    workspace = Workspace(config.workspace)
    run_stage(workspace, encode.STAGE, config)
    return workspace, EncodedLog.open(workspace.fs, workspace.folder("encode"))


def encoded_with_clicks(config: Config, clicked: np.ndarray) -> EncodedLog:
    """The log with other clicks."""
    changed = log().drop_columns(["clicked", "clicked_at"]).append_column("clicked", pa.array(clicked))
    write = Stage("ingest", lambda run: write_tables(run, changed), writes=("catalog", "interactions", "users"))
    run_stage(Workspace(config.workspace), write, config, force=True)
    return encoded(config)[1]


def in_memory(config: Config) -> RankingData:
    return prepare(log(), catalog(), users(), config.ranker, config.split)


def epoch_of(data: RankingData, config: Config, skip: int = 0) -> list[tuple[Batch, int]]:
    gather = HistoryGather(data.clicks, LatestClicks(5), CPU)
    return list(training_batches(data.train, gather, config.training, CPU, 7, 1, skip))


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """All but the labels of goals, which this ranker has not."""
    return {name: tensor for name, tensor in vars(batch).items() if name != "goals"}


def rows_of(*batches: Batch) -> list[list[float]]:
    """The rows of batches together, in one order."""
    columns = [torch.cat([vars(batch)[name] for batch in batches]) for name in tensors(batches[0])]
    return sorted(torch.cat([column.double().view(len(column), -1) for column in columns], dim=1).tolist())


@pytest.mark.usefixtures("block_rows")
def test_one_worker_sees_the_batches_of_a_log_in_memory(config: Config) -> None:
    workspace, log_files = encoded(config)
    data, expected = ranking_data(workspace, log_files, config.ranker), in_memory(config)
    assert (data.users.ids, data.items.ids) == (expected.users.ids, expected.items.ids)
    assert data.encoders.user_encoder == expected.encoders.user_encoder
    assert data.encoders.item_encoder == expected.encoders.item_encoder
    assert data.context_encoder == expected.context_encoder
    assert len(data.train) == len(expected.train)
    assert data.train.block_sizes.tolist() == expected.train.block_sizes.tolist()
    for name, values in vars(expected.clicks).items():
        assert np.array_equal(getattr(data.clicks, name), values), name
    for part in ("validation", "test"):
        for one, other in zip(getattr(data, part).columns, getattr(expected, part).columns, strict=True):
            assert one.dtype == other.dtype
            assert sorted(one.tolist()) == sorted(other.tolist())
    by_row = np.argsort(data.test_row)
    assert all(np.array_equal(one[by_row], other) for one, other in zip(data.test.columns, expected.test.columns, strict=True))
    for skip in (0, 3):
        for (one, size), (other, expected_size) in zip_longest(epoch_of(data, config, skip), epoch_of(expected, config, skip)):
            assert size == expected_size
            for name, tensor in tensors(other).items():
                assert torch.equal(getattr(one, name), tensor), name


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_share_each_batch_and_the_clicks_that_it_hides(config: Config, world_size: int) -> None:
    workspace, log_files = encoded(config)
    shares = [ranking_data(workspace, log_files, config.ranker, Worker(rank, world_size)) for rank in range(world_size)]
    users_of = [set(np.flatnonzero(np.diff(share.clicks.offsets))) for share in shares]
    assert sum(map(len, users_of)) == len(set.union(*users_of))  # a user's clicks are with one worker
    assert all(len(share.train) == len(in_memory(config).train) for share in shares)
    epochs = [epoch_of(share, config) for share in shares]
    for (whole, size), *parts in zip_longest(epoch_of(in_memory(config), config), *epochs):
        assert {part_size for _, part_size in parts} == {size}
        assert rows_of(*(part for part, _ in parts)) == rows_of(whole)


@pytest.mark.parametrize("by", ["uniform", "popularity", "page"])
def test_workers_draw_the_negatives_that_a_log_in_memory_has(config: Config, by: str) -> None:
    rows = log().append_column("request_id", pa.array([f"r{row // 50}" for row in range(ROWS)]))  # no page is in two part files
    write = Stage("ingest", lambda run: write_tables(run, rows), writes=("catalog", "interactions", "users"))
    run_stage(Workspace(config.workspace), write, config, force=True)
    settings = Negatives.model_validate({"count": 3, "by": by})
    config = config.model_copy(update={"training": config.training.model_copy(update={"negatives": settings})})
    workspace, log_files = encoded(config)
    memory = prepare(rows, catalog(), users(), config.ranker, config.split)
    shares = [ranking_data(workspace, log_files, config.ranker, Worker(rank, 2)) for rank in range(2)]
    items = len(memory.items.ids)
    whole = NegativeSampler.of(settings, click_pairs(memory.train, items), np.zeros(items, np.int64), CPU)

    def epoch(data: RankingData) -> list[tuple[Batch, int]]:
        pages = data.read_pages() if by == "page" else NO_PAGES
        own = NegativeSampler.of(settings, click_pairs(data.train, items), np.zeros(items, np.int64), CPU, pages=pages)
        # `torch.distributed` would add up the clicks of all workers.
        sampler = replace(own, cumulative=whole.cumulative)
        gather = HistoryGather(data.clicks, LatestClicks(5), CPU)
        return list(training_batches(data.train, gather, config.training, CPU, 7, 1, sampler=sampler))

    for (expected, _), *parts in zip_longest(epoch(memory), *map(epoch, shares)):
        assert rows_of(*(part for part, _ in parts)) == rows_of(expected)
        assert expected.candidates.shape[1] == 4
        assert (expected.candidates[:, 1:] > 0).any()
    assert all(share.daily.table.equals(memory.daily.table) for share in shares)


def recent_epoch(data: RankingData, config: Config) -> list[tuple[Batch, int]]:
    assert data.recent is not None
    return list(training_batches(data.recent, HistoryGather(data.clicks, LatestClicks(5), CPU), config.training, CPU, 7, 1))


def test_workers_share_the_recent_batches_of_a_training_that_goes_on(config: Config, block_rows: int) -> None:
    """The base knows the context values in another order, and one that is gone."""
    workspace, log_files = encoded(config)
    since = int(np.sort(log()["shown_at"].to_numpy())[500])
    base = in_memory(config).encoders
    base = replace(
        base, context_encoder=replace(base.context_encoder, vocabularies={"device": ["web", "radio", "tv"], "speed": ["1"]})
    )
    memory = prepare(log(), catalog(), users(), config.ranker, config.split, base, since)
    assert memory.context_encoder.vocabularies == {"device": ["web", "radio", "tv", "phone"], "speed": ["1", "2.5"]}
    assert memory.recent is not None
    assert 0 < len(memory.recent) < len(memory.train)
    for world_size in (1, 3):
        workers = [Worker(rank, world_size) for rank in range(world_size)]
        shares = [ranking_data(workspace, log_files, config.ranker, worker, base, since) for worker in workers]
        assert all(share.recent is not None and len(share.recent) == len(memory.recent) for share in shares)
        epochs = [recent_epoch(share, config) for share in shares]
        if block_rows == blocks.BLOCK_ROWS > ROWS:
            for (whole, size), *parts in zip_longest(recent_epoch(memory, config), *epochs):
                assert {part_size for _, part_size in parts} == {size}
                assert rows_of(*(part for part, _ in parts)) == rows_of(whole)
        seen = [batch for epoch in epochs for batch, _ in epoch]
        for name in ("user", "at", "candidates", "context"):  # which no draw changes
            one, other = (
                torch.cat([vars(batch)[name] for batch in batches])
                for batches in (seen, [b for b, _ in recent_epoch(memory, config)])
            )
            assert sorted(one.tolist()) == sorted(other.tolist())


def test_negatives_by_page_need_request_ids(config: Config) -> None:
    training = config.training.model_copy(update={"negatives": Negatives(by="page")})
    with pytest.raises(DataError, match="page needs the column request_id, which the log lacks"):
        encoded(config.model_copy(update={"training": training}))


def test_pages_are_encoded_for_arms_and_trials_that_draw_from_them() -> None:
    assert not encode.needs_pages(load(None))
    assert not encode.needs_pages(load(None, ["training.negatives=3"]))
    assert encode.needs_pages(load(None, ["training.negatives.by=page"]))
    assert encode.needs_pages(load(None, ['comparison.arms={"a": {"training.negatives": {"by": "page"}}}']))
    assert encode.needs_pages(load(None, ['tuning.space={"training.negatives.by": ["uniform", "page"]}']))


def test_a_group_of_shards_has_whole_users(config: Config) -> None:
    _, log_files = encoded(config)
    whole = in_memory(config)
    groups = list(Share.in_groups(log_files, ROWS // 3, whole.context_encoder, len(whole.users.ids)))
    assert len(groups) == 3
    assert sorted(shard for group in groups for shard in group.shards) == list(range(5))
    found = [RankingData.of(whole.encoders, group, in_memory=True) for group in groups]
    for part in ("train", "validation", "test"):
        parts = [getattr(each, part) for each in found]
        keys = np.concatenate([np.stack([each.at, each.user, each.item]) for each in parts], axis=1)
        expected = getattr(whole, part)
        assert sorted(keys.T.tolist()) == sorted(np.stack([expected.at, expected.user, expected.item]).T.tolist())
    assert not set.intersection(*(set(each.train.user.tolist()) for each in found))


def test_a_killed_run_goes_on_and_leaves_only_the_shards(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    original = encode.steps.write_shard

    def killed(job: encode.EncodingJob, shard: int, *others: object) -> list[int]:
        if shard == 3 and len(written) == 3:
            raise KeyboardInterrupt
        written.append(shard)
        return original(job, shard, *others)

    monkeypatch.setattr(encode.steps, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        encoded(config)
    written.append(-1)
    workspace, log_files = encoded(config)
    assert log_files.sizes.sum() == ROWS
    kinds = {path.suffix or path.name for path in Path(workspace.folder("encode")).iterdir()}
    assert kinds == {".json", ".arrow", ".examples", ".clicks"}


def test_the_log_is_encoded_again_only_for_what_changes_it(config: Config) -> None:
    def made(**changes: object) -> bool:
        ranker = config.ranker.model_copy(update=changes)
        return run_stage(Workspace(config.workspace), encode.STAGE, config.model_copy(update={"ranker": ranker}))[1]

    assert made()
    assert not made(model="din", item_fields=["author_id"], context_fields=["speed", "device", "hour"])
    assert made(context_fields=["device"])


def test_a_log_whose_training_rows_are_all_clicked_says_so(config: Config) -> None:
    assert not encoded(config)[1].facts.clicks_only
    assert encoded_with_clicks(config, np.ones(ROWS, dtype=bool)).facts.clicks_only
    only_in_training = np.arange(ROWS) < 0.85 * ROWS
    assert encoded_with_clicks(config, only_in_training).facts.clicks_only
    with pytest.raises(DataError, match="none was clicked, so there is nothing to learn"):
        encoded_with_clicks(config, ~only_in_training)


def test_fields_of_arms_and_trials_are_encoded_too() -> None:
    config = load(
        None,
        [
            "ranker.context_fields=[a]",
            'comparison.arms={"x": {"ranker.context_fields": [b, a]}, "y": {"ranker.model": "fm"}}',
            "tuning.space={ranker.context_fields: [[c], [a, d]], ranker.dropout: {low: 0.1, high: 0.2}}",
        ],
    )
    assert encode.context_fields(config) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("ranker.context_fields=[devise]", r"ranker.context_fields: the log has no column 'devise'; did you mean 'device'\?"),
        ("split.validation=0.00001", "because validation would be empty"),
    ],
)
def test_what_no_ranker_can_be_trained_on_is_refused(config: Config, change: str, sentence: str) -> None:
    mistaken = load(None, [f"workspace={config.workspace}", change])
    with pytest.raises(DataError, match=sentence):
        encoded(mistaken)
