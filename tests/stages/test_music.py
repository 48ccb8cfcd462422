"""The stage `music` from tables to vectors: what it leaves, what a further run does again, and what it says of bad input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Config, ConfigError, load
from rayrec.data.errors import DataError
from rayrec.features.audio import audio_features
from rayrec.features.media.decode import decode
from rayrec.stages import music as stage
from rayrec.stages.music import STAGE
from rayrec.stages.pipeline import names_for
from rayrec.tables import from_columns
from rayrec.training.trainer import Trainer
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace, WorkspaceError
from tests.features.clips import tone, write_clip
from tests.music.rated import KINDS, settings, world

USERS, TRACKS = 24, 8
Run = Callable[..., tuple[Workspace, Config]]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A hum for each track, whose pitch is that of its kind."""
    folder = tmp_path_factory.mktemp("sounds")
    pitches = [tone(200.0 * 2 ** (track % KINDS), 1.5) for track in range(1, TRACKS + 1)]
    return [str(write_clip(folder / f"{number}.mp4", frames=0, sound=pitch)) for number, pitch in enumerate(pitches, 1)]


@pytest.fixture
def ingested(tmp_path: Path) -> Run:
    """A function that puts a little world into a workspace; `uris` are those of the tracks."""

    def put(
        uris: list[str | None] | None = None, folder: str = "workspace", features: Any = None, **options: object
    ) -> tuple[Workspace, Config]:
        data = world(users=USERS, tracks=TRACKS)
        music = settings(**options).model_dump(mode="json")
        values = {"workspace": str(tmp_path / folder), "max_rejects": 0.3, "features": features or {"image": None, "motion": None}}
        config = Config.model_validate(values | {"music": music})

        def ingest(run: StageRun) -> None:
            kinds = [number % KINDS for number in range(1, USERS + 1)]
            titles = [f"kind{number % KINDS} music" for number in range(1, TRACKS + 1)]
            run.write(
                "users",
                from_columns("users", {"user_id": data.users, "kind": [f"k{kind}" for kind in kinds], "all": ["x"] * USERS}),
            )
            run.write("tracks", from_columns("tracks", {"track_id": data.tracks, "title": titles, "uri": uris or [None] * TRACKS}))
            rated = data.ratings
            users, tracks = (
                ids.take(pa.array(number - 1)) for ids, number in ((data.users, rated.user), (data.tracks, rated.item))
            )
            run.write("ratings", from_columns("ratings", {"user_id": users, "track_id": tracks, "rating": rated.rating}))
            run.count(0, 0)

        writes = ("users", "tracks", "ratings")
        run_stage(workspace := Workspace(config.workspace), Stage("ingest", ingest, writes=writes), config, force=True)
        return workspace, config

    return put


def vectors(workspace: Workspace, table: str, key: str) -> dict[str, np.ndarray]:
    rows = workspace.read(table)
    return dict(zip(rows[key].to_pylist(), map(np.array, rows["vector"].to_pylist()), strict=True))


def record(workspace: Workspace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(workspace.read_file(f"{workspace.folder('music')}/model/record.json"))
    return found


def test_users_of_a_kind_are_predicted_to_like_its_tracks(ingested: Run) -> None:
    workspace, config = ingested(epochs=40, patience=40)
    manifest, _ = run_stage(workspace, STAGE, config)
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (TRACKS, TRACKS, 0)
    users, tracks, facts = (
        vectors(workspace, "music_users", "user_id"),
        vectors(workspace, "music_tracks", "track_id"),
        record(workspace),
    )
    assert set(users) == {"", *(f"u{user}" for user in range(1, USERS + 1))}
    own, others = [], []
    for user in range(1, USERS + 1):
        for track in range(1, TRACKS + 1):
            rating = facts["mean"] + users[f"u{user}"] @ tracks[f"t{track}"]
            (own if user % KINDS == track % KINDS else others).append(rating)
    assert np.mean(own) > np.mean(others) + 0.7
    np.testing.assert_allclose(users[""], np.mean([users[f"u{user}"] for user in range(1, USERS + 1)], axis=0), rtol=1e-4)
    assert facts["metrics"].keys() == {"validation_rmse", "validation_mae"}
    assert workspace.read("track_features").num_rows == 0  # no track has a file
    assert run_stage(workspace, STAGE, config)[1] is False


def test_sounds_have_the_features_of_videos_and_bad_files_are_rejected(ingested: Run, sounds: list[str], tmp_path: Path) -> None:
    silent = write_clip(tmp_path / "silent.mp4", frames=6)
    workspace, config = ingested([*sounds[:5], str(silent), "/nowhere/x.ogg", None], tracks="sound")
    manifest, _ = run_stage(workspace, STAGE, config)
    rows = {row["track_id"]: row for row in workspace.read("track_features").to_pylist()}
    assert set(rows) == {f"t{track}" for track in range(1, 8)}
    assert config.features.audio is not None
    waveform = decode(sounds[2], config.features).waveform
    assert waveform is not None
    np.testing.assert_allclose(rows["t3"]["audio"], audio_features(waveform, config.features.audio), rtol=1e-5)
    rejects = [(row["stage"], row["source"], row["id"], row["reason"]) for row in workspace.rejects("music").to_pylist()]
    assert rejects == [
        ("music", str(silent), "t6", "it has no sound, or one shorter than 25 ms"),
        ("music", "/nowhere/x.ogg", "t7", "there is no such file"),
    ]
    assert manifest.rejects == 2
    found = vectors(workspace, "music_tracks", "track_id")
    assert set(found) == {f"t{track}" for track in range(1, TRACKS + 1)}  # those without sound have a vector too
    assert all(np.isfinite(vector).all() for vector in found.values())


def test_too_many_bad_files_stop_the_stage(ingested: Run, sounds: list[str]) -> None:
    workspace, config = ingested([*sounds[:4], "/a.ogg", "/b.ogg", "/c.ogg", "/d.ogg"])
    with pytest.raises(WorkspaceError, match=r"music: 4 of 8 rows are bad(.|\n)*/a.ogg: there is no such file"):
        run_stage(workspace, STAGE, config)


def test_the_sounds_of_unchanged_files_are_taken_over(ingested: Run, sounds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, config = ingested(list(sounds), tracks="sound", epochs=1)
    run_stage(workspace, STAGE, config)
    before = workspace.read("track_features")
    monkeypatch.setattr(stage, "_write_sounds", lambda *arguments: pytest.fail("a sound was decoded again"))
    workspace, config = ingested(list(sounds), tracks="sound", epochs=2)
    manifest, done = run_stage(workspace, STAGE, config)
    assert done
    assert len(manifest.shared) == 1
    assert workspace.read("track_features").equals(before)


def test_a_killed_run_goes_on_from_its_checkpoint(ingested: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, config = ingested(epochs=6, patience=6)
    run_stage(workspace, STAGE, config)
    whole = vectors(workspace, "music_tracks", "track_id")

    def dies(trainer: Trainer, trainable: Any) -> list[Any]:
        stopped = Trainer(3, trainer.seed, trainer.patience, None, checkpoint=trainer.checkpoint, callback=trainer.callback)
        fit(stopped, trainable)
        raise KeyboardInterrupt

    fit = Trainer.fit
    again, config = ingested(folder="again", epochs=6, patience=6)
    monkeypatch.setattr(Trainer, "fit", dies)
    with pytest.raises(KeyboardInterrupt):
        run_stage(again, STAGE, config)
    monkeypatch.setattr(Trainer, "fit", fit)
    run_stage(again, STAGE, config)
    for track, vector in vectors(again, "music_tracks", "track_id").items():
        np.testing.assert_allclose(vector, whole[track], rtol=1e-5, atol=1e-6)


def test_two_workers_of_ray_hear_and_learn_what_one_process_does(
    ingested: Run, sounds: list[str], ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, heard = [], []
    for folder, workers in (("here", 0), ("there", 2)):
        workspace, config = ingested(list(sounds), folder=folder, workers=workers, tracks="sound", epochs=3, patience=3)
        run_stage(workspace, STAGE, config)
        found.append(vectors(workspace, "music_users", "user_id"))
        heard.append(workspace.read("track_features"))
        monkeypatch.setattr(stage, "LOCAL_TRACKS", 0)  # the second time, Ray's workers decode
    assert heard[0].equals(heard[1])
    for user, vector in found[0].items():
        np.testing.assert_allclose(found[1][user], vector, rtol=1e-3, atol=1e-4)


def test_the_stage_runs_only_where_the_config_asks_for_it(ingested: Run) -> None:
    workspace, config = ingested()
    assert names_for(config)[-4:] == ["music", "train", "evaluate", "publish"]
    assert "music" not in names_for(load(None))
    with pytest.raises(ConfigError, match=r"music: the config has no such section; configs/music.yaml shows one"):
        run_stage(workspace, STAGE, config.model_copy(update={"music": None}))


def test_sound_without_any_file_is_refused(ingested: Run) -> None:
    workspace, config = ingested(tracks="sound")
    with pytest.raises(DataError, match=r"none could be read; give the table tracks a column uri"):
        run_stage(workspace, STAGE, config)


def test_neither_places_nor_service_settings_learn_anew(ingested: Run) -> None:
    workspace, config = ingested(epochs=1)
    run_stage(workspace, STAGE, config)
    _, config = ingested(epochs=1, workers=0, restarts=1, max_k=7)
    assert STAGE.settings(config) == STAGE.settings(ingested(epochs=1)[1])
    assert STAGE.settings(config) != STAGE.settings(ingested(epochs=2)[1])
