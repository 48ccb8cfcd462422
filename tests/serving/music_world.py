"""The small world with music: 12 tracks on the topics of the videos, users with tastes, and one space for all sounds."""

import wave
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayrec.config import Config, with_values
from rayrec.stages.pipeline import load_stage
from rayrec.tables import VECTOR
from rayrec.workspace.files import to_json
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.features.clips import RATE, tone
from tests.serving.small_world import JPEG, build_workspace, topic_of, video, write_tables

TRACKS, SILENT = 12, 11  # the sound of the last one is not known
MEAN, LOW, HIGH = 3.5, 1.0, 5.0
USERS = ["u3", "", "u0", "zoë"]  # not in the order of their ids
LONG = "t1/with a slash"
WEB = "https://example.org/a.mp3"


def track(number: int) -> str:
    return LONG if number == 1 else f"t{number}"


def sound_of(number: int) -> list[float]:
    """The features of a sound: those of its topic, and a little of its own."""
    rng = np.random.default_rng(number)
    return [float(place == topic_of(number)) + float(rng.normal(0, 0.05)) for place in range(6)]


def vectors() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Of the tracks [12, 3] and of each user [3]; the mean user is not the zero vector."""
    rng = np.random.default_rng(1)
    return rng.normal(0, 1, (TRACKS, 3)).astype(np.float32), {user: rng.normal(0, 1, 3).astype(np.float32) for user in USERS}


def tracks(media: Path) -> pa.Table:
    """Track 2 is on the web, 3 names what is no medium, 4 has no file, and the file of 5 has gone."""
    odd = {2: WEB, 3: "/etc/passwd", 4: None, 5: str(media / "gone.wav")}
    return pa.table(
        {
            "track_id": [track(n) for n in range(TRACKS)],
            "uri": [odd.get(n, str(media / "tone.wav")) for n in range(TRACKS)],
            "title": [f"<i>Tune</i> {n}" for n in range(TRACKS)],
            "artist": [None if n == 0 else f"Band {n % 2}" for n in range(TRACKS)],
        }
    )


def write_wav(path: Path, seconds: float = 4.0) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((tone(330, seconds) * 2**15).astype("<i2").tobytes())


def _music(run: StageRun) -> None:
    """What the stage `music` leaves, from the vectors above; tracks and users are in an order of their own."""
    of_tracks, of_users = vectors()
    numbers = list(reversed(range(TRACKS)))
    ids = [track(n) for n in numbers]
    run.write("music_tracks", pa.table({"track_id": ids, "vector": list(of_tracks[numbers])}))
    run.write("music_users", pa.table({"user_id": USERS, "vector": list(of_users.values())}))
    known = [n for n in range(TRACKS) if n != 4]
    sounds = pa.array([None if n == SILENT else sound_of(n) for n in known], VECTOR)
    features = {"track_id": [track(n) for n in known], "status": ["ok"] * len(known), "audio": sounds}
    run.write("track_features", pa.table(features))
    run.write_file("model/record.json", to_json({"mean": MEAN, "low": LOW, "high": HIGH}))
    run.count(0, 0)


MUSIC = Stage("music", _music, writes=("music_tracks", "music_users", "track_features"))


def build_music_world(folder: Path, **settings: object) -> Config:
    """A published workspace, whose bundle has music and search."""
    config = with_music(build_workspace(folder, **settings))
    workspace, media = Workspace(folder), folder / "media"
    write_wav(media / "tone.wav")
    ingested = {name: workspace.read(name) for name in ("catalog", "interactions")} | {"tracks": tracks(media)}
    rows = {"video_id": [video(n) for n in range(40)], "status": ["ok"] * 40, "audio": [sound_of(100 + n) for n in range(40)]}
    features = pa.table(rows | {"cover_jpeg": [JPEG if n % 2 == 0 else None for n in range(40)]})
    for stage in (write_tables(ingested), write_tables({"features": features}), load_stage("search_index"), MUSIC):
        run_stage(workspace, stage, config, force=True)
    publish(config)
    return config


def publish(config: Config) -> str:
    """Publish once more. Returns the version."""
    return run_stage(Workspace(config.workspace), load_stage("publish"), config, force=True)[0].version


def with_music(config: Config) -> Config:
    data = {"kind": "files", "tracks": "tracks.csv", "ratings": "ratings.csv"}
    return with_values(config, {"music": {"data": data, "max_k": 20}, "search": {"modalities": ["audio"], "epochs": 20}})
