"""The stage `private_public` on Ray: its table, rejects and report; going on after a kill; new videos without new training."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Config, ConfigError, PrivatePublic
from rayrec.features.private_public import fitting
from rayrec.features.private_public.fitting import load_network
from rayrec.features.private_public.inputs import INPUTS, read_inputs
from rayrec.features.private_public.network import PrivatePublicNetwork
from rayrec.features.private_public.videos import ROLES
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Manifest, Workspace
from tests.features.clips import tone, write_clip

# Ray Data warns of defaults of its own when its settings are first made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

STAGE = load_stage("private_public")
SETTINGS = PrivatePublic(
    frames=4, size=32, bands=16, width=4, branch_size=4, epochs=3, batch_size=4, held_out=0.2, decoders=1, learning_rate=3e-3
)


# --- the stage ------------------------------------------------------------------------------------------------------------------

Catalog = dict[str, tuple[str, str | None]]
Learned = Callable[..., tuple[Workspace, Manifest]]


@pytest.fixture
def learned(tmp_path: Path) -> Learned:
    """Puts a catalog {video_id: (file, class)} into the workspace and runs the stage."""

    def run(catalog: Catalog, force: bool = False, **changes: Any) -> tuple[Workspace, Manifest]:
        section = SETTINGS.model_copy(update=changes)
        config = Config(workspace=str(tmp_path / "workspace"), private_public=section, max_rejects=0.5)
        workspace = Workspace(config.workspace)
        rows = {
            "video_id": list(catalog),
            "uri": [uri for uri, _ in catalog.values()],
            "primary_class": [c for _, c in catalog.values()],
        }

        def ingest(run: StageRun) -> None:
            run.write("catalog", pa.table({name: pa.array(values, pa.string()) for name, values in rows.items()}))

        run_stage(workspace, Stage("ingest", ingest, writes=("catalog",), settings=lambda config: rows), config)
        return workspace, run_stage(workspace, STAGE, config, force)[0]

    return run


def clips_of(folder: Path, count: int) -> Catalog:
    """Clips of two classes; the last has none, and one more file is no video."""
    catalog: Catalog = {}
    for number in range(count):
        level, kind = (40, "dark") if number % 2 else (200, "bright")
        path = folder / f"clip{number}.mp4"
        sound = None if number == 3 else tone(200 * (1 + number % 2) + number, 1.0)
        write_clip(path, frames=8, sound=sound, paint=lambda i, n, level=level: np.full((32, 48, 3), level + 3 * i, np.uint8))
        catalog[f"clip{number}"] = (str(path), None if number == count - 1 else kind)
    (folder / "broken.mp4").write_text("this is no video\n" * 100)
    return catalog | {"broken": (str(folder / "broken.mp4"), "dark")}


def test_the_whole_stage(tmp_path: Path, learned: Learned, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = clips_of(tmp_path, 11)

    # A run that is killed in the midst of its training.
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rayrec.stages.private_public._train_on_ray", killed)
        with pytest.raises(KeyboardInterrupt):
            learned(catalog)
    assert {path.parent.name for path in tmp_path.glob("workspace/private_public/*/inputs/*/*.parquet")} == set(ROLES)

    # It goes on: only what had failed is decoded again. From here on without Ray Data, whose processes take seconds to start.
    tried: list[str] = []

    def decode(pending: pa.Table, settings: PrivatePublic, timeout_s: float) -> Iterator[pa.Table]:
        tried.extend(pending["video_id"].to_pylist())
        yield read_inputs(pending, settings)

    monkeypatch.setattr("rayrec.stages.private_public._decoded", decode)
    workspace, manifest = learned(catalog)
    assert tried == ["broken"]
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (12, 11, 1)
    assert manifest.settings["networks"] == "small, learned from the catalog alone; public: shared"
    assert workspace.rejects("private_public")["id"].to_pylist() == ["broken"]
    vectors = workspace.read("private_public")
    assert vectors["video_id"].to_pylist() == [f"clip{number}" for number in range(11)]  # the catalog's order
    found = np.array(vectors["vector"].to_pylist())
    assert found.shape == (11, 16)
    assert not found[3, 8:].any()  # the silent one
    assert found[2].all()
    folder = Path(workspace.folder("private_public"))
    report = json.loads((folder / "report.json").read_text())
    assert report["videos"] == {"train": 8, "held_out": 2, "rest": 1}
    assert 1 <= len(report["epochs"]) <= 3
    assert (folder / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["private_public", "rejects"]  # the rest was cleared
    _, classes = load_network(workspace.fs, str(folder))
    assert classes == ["bright", "dark"]
    weights = (folder / "network.safetensors").read_bytes()

    # New, changed and lost videos: the same network, run on the new and changed ones alone.
    monkeypatch.setattr("rayrec.features.private_public.fitting.fit", lambda *_: pytest.fail("it was trained anew"))
    tried.clear()
    write_clip(tmp_path / "clip1.mp4", frames=12)
    write_clip(tmp_path / "new.mp4", frames=8, sound=tone(500, 1.0))
    grown = {name: row for name, row in catalog.items() if name not in ("broken", "clip0")}
    workspace, manifest = learned(grown | {"new": (str(tmp_path / "new.mp4"), "bright")})
    assert sorted(tried) == ["clip1", "new"]
    after = workspace.read("private_public")
    assert after["video_id"].to_pylist() == [*(f"clip{number}" for number in range(1, 11)), "new"]
    assert after["vector"][1:10].to_pylist() == vectors["vector"][2:11].to_pylist()
    assert after["vector"][0] != vectors["vector"][1]
    assert (Path(workspace.folder("private_public")) / "network.safetensors").read_bytes() == weights


def test_what_trains_anew_and_what_is_refused(
    tmp_path: Path, learned: Learned, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="primary_class"):
        learned({name: (str(tmp_path / name), "only") for name in "abcdef"})
    _, manifest = learned({})  # no video, no network
    assert (manifest.rows_in, manifest.rows_out) == (0, 0)

    trained: list[str] = []

    def fake(run: StageRun, settings: PrivatePublic, classes: list[str]) -> None:
        """A network without training."""
        if not run.fs.get_file_info(f"{run.folder}/network.safetensors").is_file:
            trained.append(run.version)
            network = PrivatePublicNetwork(settings, len(classes))
            fitting.save_network(network, settings, classes, run.fs, run.folder)
            run.write_file("report.json", b"{}")
            run.write_file("learning_curves.png", b"")

    def undecoded(pending: pa.Table, settings: PrivatePublic, timeout_s: float) -> Any:
        nulls = {name: pa.nulls(pending.num_rows, INPUTS.field(name).type) for name in ("error", "frames", "sound")}
        yield pa.table({name: pending[name] for name in ("video_id", "role", "label")} | nulls, schema=INPUTS)

    monkeypatch.setattr("rayrec.stages.private_public._train_on_ray", fake)
    monkeypatch.setattr("rayrec.stages.private_public._decoded", undecoded)
    catalog = {name: (str(tmp_path / name), "x" if name in "abc" else "y") for name in "abcdef"}
    learned(catalog)
    learned(catalog, workers=2, decoders=5)  # how, not what
    learned(catalog | {"g": (str(tmp_path / "g"), "z")})
    assert len(trained) == 1
    learned(catalog | {"a": (str(tmp_path / "a"), "y")})
    assert len(trained) == 2
    learned(catalog | {"a": (str(tmp_path / "a"), "y")}, difference=0.5)
    assert len(trained) == 3
    learned(catalog | {"a": (str(tmp_path / "a"), "y")}, difference=0.5, force=True)
    assert len(trained) == 4
