"""The examples run as they are."""

from pathlib import Path

import pytest

from rayrec.config import load
from rayrec.stages.pipeline import run_stages, stages_for
from rayrec.workspace.versions import Workspace

ROOT = Path(__file__).parents[1]


@pytest.mark.usefixtures("ray_cluster")
def test_own_data_goes_all_the_way_to_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the example's paths start at the root of the repository
    config = load("examples/own_data/config.yaml", [f"workspace={tmp_path}"])
    run_stages(stages_for(config), config)
    workspace = Workspace(config.workspace)
    for stage in stages_for(config):
        manifest = workspace.manifest(stage.name)
        assert manifest is not None
        assert manifest.rejects == 0
    first = workspace.read("interactions").sort_by("shown_at").slice(0, 2).to_pylist()
    assert [(row["user_id"], row["video_id"], row["clicked"], round(row["watch_s"], 1), row["device"]) for row in first] == [
        ("bob", "clip-21", False, 2.1, "phone"),
        ("bob", "clip-18", True, 24.9, "tablet"),
    ]
    assert workspace.read("catalog")["tags"].to_pylist()[0] == ["noodles", "dumplings", "oven"]
