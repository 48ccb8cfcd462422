"""Reduction against scikit-learn; the stage `reduce` on Ray: whom it is fitted on, and when a fit is kept."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from rayrec.config import Config
from rayrec.config import Reduction as Settings
from rayrec.features.reduction import Moments, Reduction, matrix, merged, moments_of, pack, reduced, unpack
from rayrec.stages import reduce
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Manifest, Workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


def correlated(count: int, size: int, seed: int = 0) -> np.ndarray:
    """float32 [count, size], far from the origin, on scales from 0.01 to 100, with one constant dimension."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) * np.logspace(-2, 2, size) + 1000 * rng.normal(
        size=size
    )
    vectors[:, 3] = 5.1
    return vectors.astype(np.float32)


# --- the mathematics ------------------------------------------------------------------------------------------------------------


def test_moments_of_uneven_blocks_are_those_of_the_whole() -> None:
    vectors = correlated(1000, 12)
    whole = Moments.of(vectors)
    parts = [Moments.of(part) for part in np.split(vectors, [1, 2, 40, 700])]
    for pieces in (parts, parts[::-1]):
        total = pieces[0]
        for piece in pieces[1:]:
            total += piece
        assert total.count == 1000
        np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(total.comoment, whole.comoment, rtol=1e-9, atol=1e-9 * np.abs(whole.comoment).max())
        assert np.array_equal(total.low, vectors.min(axis=0))
        assert np.array_equal(total.high, vectors.max(axis=0))
    np.testing.assert_allclose(whole.comoment / 1000, np.cov(vectors.T.astype(np.float64), ddof=0), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("normalise", ["zscore", "minmax"])
@pytest.mark.parametrize("count", [500, 9])  # more and fewer videos than dimensions
def test_it_equals_scikit_learn(normalise: str, count: int) -> None:
    vectors, later = correlated(count, 20), correlated(30, 20, seed=1)
    size = 6
    scaler = StandardScaler() if normalise == "zscore" else MinMaxScaler()
    pipeline = make_pipeline(scaler, PCA(size, svd_solver="full")).fit(vectors.astype(np.float64))
    reduction = Reduction.fit(Moments.of(vectors[: count // 3]) + Moments.of(vectors[count // 3 :]), normalise, size)
    later[:, 3] = 5.1
    for data in (vectors, later):
        theirs, ours = pipeline.transform(data.astype(np.float64)), reduction(data)
        assert ours.dtype == np.float32
        signs = np.sign((theirs * ours).sum(axis=0))
        np.testing.assert_allclose(ours * signs, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(reduction.explained, pipeline[1].explained_variance_ratio_, rtol=1e-5)
    alone = Reduction.fit(Moments.of(vectors), normalise, None)  # without PCA
    np.testing.assert_allclose(alone(later), scaler.transform(later.astype(np.float64)), rtol=1e-5, atol=1e-5)


def test_sizes_follow_the_rank_and_signs_do_not_depend_on_the_blocks() -> None:
    rng = np.random.default_rng(2)
    flat = (rng.normal(size=(200, 3)) @ rng.normal(size=(3, 15))).astype(np.float64)
    reduction = Reduction.fit(Moments.of(flat), "zscore", 10)
    assert reduction.size == 3
    assert reduction.explained.sum() == pytest.approx(1)
    np.testing.assert_allclose(reduction.components @ reduction.components.T, np.eye(3), atol=1e-10)
    assert Reduction.fit(Moments.of(flat[:3]), "zscore", 10).size == 2
    assert Reduction.fit(Moments.of(flat[:1]), "zscore", 10).size == 0
    in_blocks = Reduction.fit(Moments.of(flat[:7]) + Moments.of(flat[7:]), "zscore", 10)
    np.testing.assert_allclose(in_blocks(flat), reduction(flat), atol=1e-5)


def test_a_constant_dimension_gives_zero_whatever_comes_later() -> None:
    vectors = correlated(50, 6)
    reduction = Reduction.fit(Moments.of(vectors[:20]) + Moments.of(vectors[20:]), "zscore", None)
    vectors[:, 3] = 77
    assert not reduction(vectors)[:, 3].any()
    assert np.isfinite(reduction(vectors)).all()


def test_columns_with_nulls_and_bytes_and_back() -> None:
    column = pa.chunked_array([[[1, 2], None], [[3, 6], None, [5, 1]]], pa.list_(pa.float32()))
    assert matrix(column, "image").tolist() == [[1, 2], [3, 6], [5, 1]]
    table = pa.table({"image": column, "audio": pa.nulls(5, pa.list_(pa.float32()))})
    moments = moments_of(table, ["image", "audio"])
    assert list(moments) == ["image"]
    again = unpack(Moments, pack(merged(moments, {})))["image"]
    assert again.count == 3
    assert np.array_equal(again.comoment, moments["image"].comoment)
    for size in (None, 1):
        fit = Reduction.fit(again, "minmax", size)
        fit = unpack(Reduction, pack({"image": fit}))["image"]
        values = reduced(column, fit, "image")
        assert values.is_null().to_pylist() == [False, True, False, True, False]
        assert np.array_equal(np.array(values.drop_null().to_pylist(), np.float32), fit(matrix(column, "image")))
    with pytest.raises(ValueError, match="'image' hold 1 and 2 numbers"):
        matrix(pa.chunked_array([[[1.0], [1.0, 2.0]]]), "image")
    with pytest.raises(ValueError, match="some vectors hold 2 numbers, others 3"):
        merged(moments, {"image": Moments.of(np.ones((1, 3)))})


# --- the stage ------------------------------------------------------------------------------------------------------------------


STAGE = load_stage("reduce")


class World:
    """A workspace whose features and log are given arrays, and its stage `reduce`."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(workspace=str(folder / "space"), reduction=Settings(sizes={"image": 4}))
        self.workspace = Workspace(self.config.workspace)

    def ingest(self, shown: dict[str, int]) -> None:
        log = pa.table(
            {
                "user_id": ["u"] * len(shown),
                "video_id": list(shown),
                "shown_at": list(shown.values()),
                "clicked": [True] * len(shown),
            }
        )
        self._run("ingest", ("interactions",), lambda run: run.write("interactions", log))

    def extract(self, image: np.ndarray, per_part: int = 10, config: Config | None = None) -> None:
        def work(run: StageRun) -> None:
            run.fs.create_dir(f"{run.folder}/features")
            for start in range(0, len(image), per_part):
                rows = range(start, min(start + per_part, len(image)))
                audio = [None if row % 5 == 0 else image[row, :2] for row in rows]
                part = {
                    "video_id": [f"v{row}" for row in rows],
                    "status": ["ok"] * len(rows),
                    "image": [image[row] for row in rows],
                    "audio": audio,
                }
                schema = pa.schema(
                    {
                        "video_id": pa.string(),
                        "status": pa.string(),
                        "image": pa.list_(pa.float32()),
                        "audio": pa.list_(pa.float32()),
                    }
                )
                pq.write_table(pa.table(part, schema), f"{run.folder}/features/part-{start:06d}.parquet")
            run.written_in_parts("features")

        self._run("extract", ("features",), work, config)

    def reduce(self, force: bool = False, config: Config | None = None) -> tuple[Manifest, dict]:
        manifest, _ = run_stage(self.workspace, STAGE, config or self.config, force)
        return manifest, json.loads((Path(self.workspace.folder("reduce")) / reduce.FACTS).read_text())["modalities"]

    def vectors(self, name: str = "image") -> np.ndarray:
        return matrix(self.workspace.read("vectors")[name], name)

    def _run(self, name, writes, work, config: Config | None = None) -> None:
        config = config or self.config
        run_stage(self.workspace, Stage(name, work, writes=writes, settings=lambda _: {"seed": config.seed}), config, force=True)


def test_the_stage_fits_on_the_training_split_and_keeps_its_fit(
    tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayrec.stages.reduce.SHARE_FILES", 3)  # several tasks
    image = correlated(100, 8)
    image[80:] *= 3
    world = World(tmp_path)
    # The last fifth is shown in the validation and test splits only; the video v7 never.
    world.ingest({f"v{row}": row for row in range(100) if row != 7})
    world.extract(image)
    manifest, facts = world.reduce()
    assert (manifest.rows_in, manifest.rows_out, manifest.tables["vectors"]) == (100, 100, 100)
    trained = [row for row in range(80) if row != 7]
    expected = Reduction.fit(Moments.of(image[trained]), "zscore", 4)
    np.testing.assert_allclose(world.vectors(), expected(image), rtol=1e-4, atol=1e-4)
    assert world.workspace.read("vectors")["video_id"].to_pylist() == [f"v{row}" for row in range(100)]
    assert world.vectors("audio").shape == (80, 2)  # not in `sizes`: normalised only; a fifth has no sound
    assert facts["image"]["fitted_on"] == 79
    assert facts["image"]["explained_variance"] == pytest.approx(expected.explained.tolist(), abs=1e-5)

    # Later videos are mapped as before, whatever they are like; a longer log changes nothing.
    more = np.concatenate([image, 10 * correlated(30, 8, seed=5)])
    world.extract(more)
    world.ingest({f"v{row}": row for row in range(130)})
    _, later = world.reduce()
    assert later == facts
    np.testing.assert_allclose(world.vectors(), expected(more), rtol=1e-4, atol=1e-4)

    # Fitted anew: by force, for other settings, for vectors of another network, and for those of another size.
    assert world.reduce(force=True)[1]["image"]["fitted_on"] == 104
    world.extract(image)
    assert world.reduce()[1]["image"]["fitted_on"] == 104
    minmax = world.config.model_copy(update={"reduction": Settings(normalise="minmax", sizes={"image": 4})})
    assert world.reduce(config=minmax)[1]["image"]["fitted_on"] == 100
    world.extract(more, config=world.config.model_copy(update={"seed": 8}))
    assert world.reduce(config=minmax)[1]["image"]["fitted_on"] == 104
    world.extract(more[:, :6], config=world.config.model_copy(update={"seed": 8}))
    assert world.reduce(config=minmax)[1]["image"]["raw_size"] == 6


def test_without_a_log_all_videos_count_and_without_features_there_are_no_vectors(tmp_path: Path, ray_cluster: str) -> None:
    world = World(tmp_path)
    world.extract(correlated(0, 8))
    manifest, facts = world.reduce()
    assert (manifest.rows_out, facts) == (0, {})
    assert world.workspace.read("vectors").num_rows == 0
    world.extract(correlated(20, 8))
    assert world.reduce()[1]["image"]["fitted_on"] == 20
