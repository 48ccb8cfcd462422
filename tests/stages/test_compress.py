"""The stage `compress`: from pictures or covers to a file that `extract` uses; going on after a kill; what is redone."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from rayrec.cli import app
from rayrec.config import Compression, Config, ConfigError, Features
from rayrec.features.compression import fitting
from rayrec.features.compression.file import read_facts
from rayrec.features.media.frames import jpeg
from rayrec.stages import compress, extract
from rayrec.stages.compress import NETWORK, REPORT, STAGE, place
from rayrec.workspace.files import from_json
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.features.compression.pictures import IMAGE, SETTINGS, pixels_of, write_pictures


def config_of(tmp_path: Path, **changes: Any) -> Config:
    own: dict[str, Any] = {"file": str(tmp_path / "models" / "network.rrz"), "epochs": 1, "sharing_epochs": 1, "clusters": 8}
    compression = Compression.model_validate(SETTINGS.model_dump() | own | changes)
    image = IMAGE.model_copy(update={"compression": compression})
    return Config(workspace=str(tmp_path / "workspace"), features=Features(image=image, motion=None, audio=None))


def test_classes_are_learned_only_where_there_are_any(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_pictures(folder, 40)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        path.rename(folder / f"{number}.png")
    config = config_of(tmp_path, pictures=str(folder), objective="labels")
    with pytest.raises(ConfigError, match="objective=labels: the pictures have no classes"):
        run_stage(Workspace(config.workspace), STAGE, config)


def test_from_a_folder_to_the_extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "pictures", 40)
    (tmp_path / "pictures" / "down" / "broken.png").write_text("no picture")
    config = config_of(tmp_path, pictures=str(tmp_path / "pictures"), objective="labels")
    workspace = Workspace(config.workspace)

    # A run that is killed between the two trainings. The next one does not prune again.
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "shared", killed)
    with pytest.raises(KeyboardInterrupt):
        run_stage(workspace, STAGE, config)
    monkeypatch.undo()
    monkeypatch.setattr(fitting, "pruned", killed)
    manifest, done = run_stage(workspace, STAGE, config)
    monkeypatch.undo()
    assert done
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (41, 40, 1)
    assert workspace.rejects("compress")["source"].to_pylist() == [str(tmp_path / "pictures" / "down" / "broken.png")]
    folder = workspace.folder("compress")
    assert set(manifest.files) == {NETWORK, REPORT, "rejects/part-0.parquet"}

    target = Path(place(workspace, folder, config))
    assert target.read_bytes() == workspace.read_file(f"{folder}/{NETWORK}")
    written = target.stat().st_mtime_ns
    place(workspace, folder, config)
    assert target.stat().st_mtime_ns == written  # so that `extract` is not redone
    facts = read_facts(target.read_bytes())
    assert (facts["model"], facts["output"], facts["size"]) == ("squeezenet1_1", "pooled", 32)
    report = from_json(workspace.read_file(f"{folder}/{REPORT}"))
    assert report["ratio"] > 10
    assert report["pictures"] == 10
    assert {"float32", "int8"} == report["quality"].keys()
    assert 0 <= report["quality"]["int8"]["accuracy"] <= 1
    assert "compressed" in extract.settings(config)["networks"]
    extract.STAGE.check(config)

    assert not run_stage(workspace, STAGE, config)[1]
    assert not run_stage(workspace, STAGE, config_of(tmp_path, **_unchanged(config), int8=False))[1]
    (tmp_path / "pictures" / "down" / "broken.png").unlink()
    assert run_stage(workspace, STAGE, config)[1]


def test_from_covers_by_the_command(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    workspace = Workspace(config.workspace)
    with pytest.raises(ConfigError, match=r"compression\.pictures: there are no covers to learn from yet"):
        run_stage(workspace, STAGE, config)

    def extracted(run: StageRun) -> None:
        columns = {"video_id": [f"v{number}" for number in range(24)], "status": ["ok"] * 24, "file_version": ["1"] * 24}
        covers = pa.array([jpeg(one) for one in pixels_of(24)], pa.large_binary())
        run.write("features", pa.table(columns | {"cover_jpeg": covers}))

    run_stage(workspace, Stage("extract", extracted, writes=("features",)), config)
    path = tmp_path / "config.yaml"
    path.write_text(config.model_dump_json())  # JSON is YAML
    answer = CliRunner().invoke(app, ["compress", str(path)])
    assert answer.exit_code == 0, answer.output
    assert "features.3" in answer.output
    assert "times fewer" in answer.output
    assert (tmp_path / "models" / "network.rrz").is_file()

    # The compressed network gives other vectors, and the covers are the same.
    again = Stage("extract", extracted, writes=("features",), settings=lambda _: {"networks": "int8"})
    assert run_stage(workspace, again, config)[1]
    assert not run_stage(workspace, STAGE, config)[1]


def test_configs_that_cannot_work(tmp_path: Path) -> None:
    plain = Config(features=Features(image=IMAGE))
    with pytest.raises(ConfigError, match=r"features\.image\.compression: the config has no such section"):
        STAGE.check(plain)
    with pytest.raises(ConfigError, match=r"compression\.pictures=.*nowhere: there is no such folder"):
        STAGE.check(config_of(tmp_path, pictures=str(tmp_path / "nowhere")))
    config = config_of(tmp_path)
    with pytest.raises(ConfigError, match=r"network\.rrz.*no such file; `rayrec compress CONFIG` makes it"):
        extract.settings(config)
    on_gpus = config.model_copy(update={"features": config.features.model_copy(update={"gpus_per_model": 1})})
    with pytest.raises(ConfigError, match="int8=true is for CPUs"):
        extract.STAGE.check(on_gpus)


def _unchanged(config: Config) -> dict[str, Any]:
    assert config.features.image is not None
    assert config.features.image.compression is not None
    return config.features.image.compression.model_dump(exclude={"int8"})


def test_settings_that_change_nothing_in_the_file_do_not_redo_it(tmp_path: Path) -> None:
    one, other = (compress.settings(config_of(tmp_path, file=f"{name}.rrz", int8=name == "a")) for name in "ab")
    assert one == other
    assert compress.settings(config_of(tmp_path, keep=0.4)) != one
