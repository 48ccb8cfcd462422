"""Small settings, and a workspace whose catalog lists given files."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from rayrec.config import AudioFeatures, Config, Features, ImageFeatures, MotionFeatures
from rayrec.workspace import Stage, StageRun, Workspace

REAL_VIDEOS = Path(__file__).parents[2].parent / "shared" / "data" / "videos"

SMALL = Features(
    image=ImageFeatures(model="resnet18", weights="none", output="pooled", frames=3, size=32),
    motion=MotionFeatures(model="r3d_18", weights="none", output="pooled", frames=4, size=32),
    audio=AudioFeatures(),
    batch_videos=4,
)


@pytest.fixture
def small() -> Features:
    return SMALL


@pytest.fixture
def catalog_of(tmp_path: Path) -> Callable[..., tuple[Workspace, Config]]:
    """A function from {video_id: uri} to a workspace with that catalog and a small config for it; all share one title."""

    def make(uris: dict[str, str | None], title: str | None = None, features: Features = SMALL) -> tuple[Workspace, Config]:
        config = Config(workspace=str(tmp_path / "workspace"), features=features, most_rejects=1.0)
        workspace = Workspace(config.workspace)

        def ingest(run: StageRun) -> None:
            columns = {"video_id": list(uris), "uri": list(uris.values()), "title": [title] * len(uris)}
            run.write("catalog", pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}))

        workspace.run(Stage("ingest", ingest, writes=("catalog",)), config, force=True)
        return workspace, config

    return make


@pytest.fixture(scope="session")
def real_videos() -> list[Path]:
    """The four real clips, where the checkout has them beside it."""
    videos = sorted(REAL_VIDEOS.glob("*.mp4"))
    if not videos:
        pytest.skip(f"the real clips are not at {REAL_VIDEOS}: nothing is checked against real videos")
    return videos
