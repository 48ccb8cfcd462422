"""The page of topics: its parts, what it leaves out, and that titles can't inject anything."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.preprocessing import normalize
from typer.testing import CliRunner

from rayrec import tables
from rayrec.cli import app
from rayrec.config import Config, Topics
from rayrec.stages.topic_report import STAGE as TOPIC_REPORT
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace

COUNT = 60
INJECTION = "<script>alert(1)</script>"
QUICK = Topics(encoder_size=4, expert_size=4, experts=2, epochs=2, batch_size=32, walks_per_tag=2, tag_size=4)


def jpeg(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 36), colour).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A workspace as the stages before leave it: two kinds of videos, two topics, and a third that is empty."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, COUNT)
    ids = [f"v{row}" for row in range(COUNT)]
    centres, noise = np.eye(3, dtype=np.float32), 0.1 * rng.normal(size=(COUNT, 3))
    given = {
        "catalog": {
            "video_id": ids,
            "title": [f"{('cat', 'dog')[kind]} {'day' if row else INJECTION}" for row, kind in enumerate(kinds)],
            "tags": [[("cats", "dogs")[kind]] for kind in kinds],
            "primary_class": [("felines", "canines")[kind] for kind in kinds],
        },
        "features": {"video_id": ids, "status": ["ok"] * COUNT, "cover_jpeg": [jpeg(("red", "blue")[kind]) for kind in kinds]},
        "vectors": {"video_id": ids, "cover": list((rng.normal(size=(COUNT, 3)) + 3 * centres[kinds]).astype(np.float32))},
        "topics": {
            "video_id": ids,
            "topics": [np.array([kind], np.int32) for kind in kinds],
            "similarity": [np.array([0.9], np.float32)] * COUNT,
        },
        "embeddings": {"video_id": ids, "vector": list(normalize(centres[kinds] + noise).astype(np.float32))},
        "topic_centres": {"topic": [0, 1, 2], "centre": list(centres), "videos": np.bincount(kinds, minlength=3)},
    }
    config = Config(workspace=str(tmp_path / "workspace"), topics=QUICK)
    for stage, names in (
        ("ingest", ["catalog"]),
        ("extract", ["features"]),
        ("reduce", ["vectors"]),
        ("topics", ["topics", "embeddings", "topic_centres"]),
    ):

        def work(run: StageRun, names: list[str] = names) -> None:
            for name in names:
                run.write(name, tables.from_columns(name, given[name]))

        run_stage(Workspace(config.workspace), Stage(stage, work, writes=tuple(names)), config)
    return config


def test_the_page_shows_every_topic_and_the_scores(config: Config) -> None:
    workspace = Workspace(config.workspace)
    run_stage(workspace, TOPIC_REPORT, config)
    folder = Path(workspace.folder("topic_report"))
    page = (folder / "index.html").read_text()
    assert re.findall(r'<section class="topic" id="t(\d)">', page) == ["0", "1", "2"]
    assert page.count("data:image/png;base64,") == 3  # map, histogram, ratios
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert sorted(path.name for path in (folder / "sheets").iterdir()) == ["topic-0.jpg", "topic-1.jpg"]
    red, _, blue = Image.open(folder / "sheets" / "topic-0.jpg").getpixel((20, 20))
    assert red > 200
    assert blue < 50
    scores = json.loads((folder / "representations.json").read_text())
    assert list(scores) == ["cover", "title", "MMoE", "tags", "MMoE + tags"]
    assert set(scores["tags"]) == {"primary class"}
    assert scores["tags"]["primary class"]["nmi"] == pytest.approx(1)


def test_show_on_the_command_line(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"workspace: {config.workspace}")
    shown = CliRunner().invoke(app, ["topics", "show", str(path)])
    assert shown.exit_code == 0
    assert "cats" in shown.output
    one = CliRunner().invoke(app, ["topics", "show", str(path), "--topic", "1"])
    assert "dog day" in one.output
    wrong = CliRunner().invoke(app, ["topics", "show", str(path), "--topic", "3"])
    assert wrong.exit_code == 1
    assert "there is no topic 3; topics are numbered from 0 to 2" in wrong.stderr
