"""The stage `reduce`: whom it is fitted on, when a fit is kept, and that Ray gives what this process gives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import Config
from rayrec.config import Reduction as Settings
from rayrec.features.reduction import Moments, Reduction, matrix
from rayrec.stages import reduce
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Manifest, Workspace, WorkspaceError
from tests.fixtures.vectors import correlated

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

STAGE = reduce.STAGE


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

    def extract(self, image: np.ndarray, per_part: int = 10, config: Config | None = None, order: np.ndarray | None = None) -> None:
        videos = np.arange(len(image)) if order is None else order

        def work(run: StageRun) -> None:
            run.fs.create_dir(f"{run.folder}/features")
            for start in range(0, len(image), per_part):
                rows = videos[start : start + per_part]
                audio = [None if row % 5 == 0 else image[row, :2] for row in rows]
                part = {
                    "video_id": [f"v{row:03d}" for row in rows],
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

    def reduce(self, force: bool = False, config: Config | None = None) -> tuple[Manifest, dict[str, Any]]:
        manifest, _ = run_stage(self.workspace, STAGE, config or self.config, force)
        return manifest, json.loads((Path(self.workspace.folder("reduce")) / reduce.FACTS).read_text())["modalities"]

    def vectors(self, name: str = "image") -> np.ndarray:
        return matrix(self.workspace.read("vectors")[name], name)

    def _run(self, name: str, writes: tuple[str, ...], work: Callable[[StageRun], None], config: Config | None = None) -> None:
        config = config or self.config
        run_stage(self.workspace, Stage(name, work, writes=writes, settings=lambda _: {"seed": config.seed}), config, force=True)


def test_the_stage_fits_on_the_training_split_and_keeps_its_fit(tmp_path: Path) -> None:
    image = correlated(100, 8)
    image[80:] *= 3
    world = World(tmp_path)
    # The last fifth is shown in the validation and test splits only; the video v7 never.
    world.ingest({f"v{row:03d}": row for row in range(100) if row != 7})
    world.extract(image)
    manifest, facts = world.reduce()
    assert (manifest.rows_in, manifest.rows_out, manifest.tables["vectors"]) == (100, 100, 100)
    trained = [row for row in range(80) if row != 7]
    expected = Reduction.fit(Moments.of(image[trained]), "zscore", 4)
    np.testing.assert_allclose(world.vectors(), expected(image), rtol=1e-4, atol=1e-4)
    assert world.workspace.read("vectors")["video_id"].to_pylist() == [f"v{row:03d}" for row in range(100)]
    assert world.vectors("audio").shape == (80, 2)  # not in `sizes`: normalised only; a fifth has no sound
    assert facts["image"]["fitted_on"] == 79
    assert facts["image"]["explained_variance"] == pytest.approx(expected.explained.tolist(), abs=1e-5)

    # Later videos are mapped as before, whatever they are like; a longer log changes nothing.
    more = np.concatenate([image, 10 * correlated(30, 8, seed=5)])
    world.extract(more)
    world.ingest({f"v{row:03d}": row for row in range(130)})
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


def test_without_a_log_all_videos_count_and_without_features_there_are_no_vectors(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.extract(correlated(0, 8))
    manifest, facts = world.reduce()
    assert (manifest.rows_out, facts) == (0, {})
    assert world.workspace.read("vectors").num_rows == 0
    world.extract(correlated(20, 8))
    assert world.reduce()[1]["image"]["fitted_on"] == 20


def test_ray_reduces_a_large_table_to_the_same_vectors(tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = correlated(100, 8)
    world = World(tmp_path)
    world.ingest({f"v{row:03d}": row for row in range(100)})
    world.extract(image)
    monkeypatch.setattr("rayrec.stages.reduce.SHARE_FILES", 3)  # several shares
    with monkeypatch.context() as patch:
        patch.setattr("rayrec.stages.on_ray.data.map_files", lambda *_: pytest.fail("Ray was used for a small table"))
        _, facts = world.reduce()
    here = world.workspace.read("vectors")
    monkeypatch.setattr("rayrec.stages.reduce.LOCAL_VIDEOS", 99)
    _, facts_of_ray = world.reduce(force=True)
    assert facts_of_ray == facts
    there = world.workspace.read("vectors")
    assert there["video_id"].equals(here["video_id"])
    for name in ("image", "audio"):
        np.testing.assert_allclose(matrix(there[name], name), matrix(here[name], name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", [0, -1])
def test_a_damaged_part_is_named(tmp_path: Path, part: int) -> None:
    world = World(tmp_path)
    world.extract(correlated(100, 8))
    path = Path(world.workspace.parts("features")[part])
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(WorkspaceError, match=rf"{path.name} is damaged \(its checksum differs\).*`rayrec extract CONFIG --force`"):
        world.reduce()


def test_vectors_do_not_depend_on_the_order_in_which_videos_were_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.stages.reduce.CHUNK_VIDEOS", 30)
    world, image = World(tmp_path), correlated(100, 8)
    world.extract(image)
    world.reduce()
    first = world.workspace.read("vectors")
    world.extract(image, per_part=7, order=np.random.default_rng(0).permutation(100))
    world.reduce(force=True)
    assert world.workspace.read("vectors").equals(first)  # to the last bit
