"""The stage `music`: learns from ratings which track a user would like, by what users say of themselves and what tracks are.

The table `track_features` has the features of the tracks' sounds. Its part files are named after what they hold, so that a later
run takes over those whose tracks have not changed. The tables `music_users` and `music_tracks` have the vectors that the service
multiplies; `model/record.json` has the mean and the range of the ratings, and how well held-out ratings were predicted.
"""

import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.config import Config, ConfigError, Music, dump
from rayrec.features.media.files import file_versions
from rayrec.music.sounds import SoundSettings
from rayrec.serving.cluster.room import check_training
from rayrec.stages.execution import in_this_process
from rayrec.workspace.files import make_folder_of, open_filesystem, to_json, write_whole, written_whole
from rayrec.workspace.parts import part_paths, read_files, read_footer, write_part
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    import torch

    from rayrec.stages.on_ray.training import Task
    from rayrec.training.exchange import Worker

SOUNDS, TRACKS, USERS = "track_features", "music_tracks", "music_users"
RECORD = "model/record.json"  # written last, so that a version which has it is complete
PART_TRACKS = 128  # in a part file of `track_features`, about
LOCAL_TRACKS = 500  # the most that this process decodes alone; it does so in the seconds that a Ray cluster takes to start
# What the vectors do not depend on: how many processes learn them, how they are served, and where the tables came from.
NOT_LEARNED = {"workers", "gpus_per_worker", "restarts", "max_k", "data"}

log = logging.getLogger(__name__)


def learn_music(run: StageRun) -> None:
    """The work of the stage. Raises `DataError` where the model reads what no user or no track has, `WorkspaceError` if too many
    sounds can't be read.
    """
    from rayrec.stages.on_ray.training import Processes, await_workers, train_and_log

    settings = wanted(run.config)
    processes = Processes("music", settings.workers, settings.gpus_per_worker, restarts=settings.restarts)
    await_workers(run.config, processes)
    tracks = run.read("tracks")
    paths, rows = _hear(run, tracks)
    run.record_parts(SOUNDS, rows)
    rejects = _rejects(run, tracks, paths)
    run.count(rows_in=tracks.num_rows, rows_out=tracks.num_rows - rejects.num_rows, rejects=rejects)
    if not run.fs.get_file_info(f"{run.folder}/{RECORD}").is_file:
        train_and_log(
            run, _work, {"config": dump(run.config), "sounds": paths}, run.folder, run.stage.name, settings.epochs, processes
        )
    for name in (TRACKS, USERS):
        run.written_in_parts(name)


def wanted(config: Config) -> Music:
    """The section. Raises `ConfigError` if there is none."""
    if config.music is None:
        raise ConfigError(
            "music: the config has no such section; configs/music.yaml shows one, with tracks and ratings of your own"
        )
    return config.music


def _work(task: "Task", worker: "Worker", device: "torch.device") -> None:
    """What each worker does. The first one writes the tables, and the record last."""
    from rayrec.collaborative.model import Fitting
    from rayrec.music.data import read_music_data
    from rayrec.music.exports import record_of, track_table, user_table
    from rayrec.music.pmf import fit
    from rayrec.stages.on_ray.training import reported
    from rayrec.workspace.checkpoint import Checkpoint

    config, workspace, folder = Config.model_validate(task["config"]), Workspace(task["workspace"]), task["folder"]
    settings, checkpoint = wanted(config), Checkpoint(workspace.fs, f"{folder}/checkpoint.pt")
    with reported(task, worker) as callback:
        heard = settings.tracks == "sound"
        sounds = read_files(workspace.fs, task["sounds"], SOUNDS, ["track_id", "patches"]) if heard else None
        data = read_music_data(workspace, settings, sounds)
        vectors, epochs = fit(data, settings, Fitting(config.seed, device, worker, callback, checkpoint))
    if worker.rank == 0:
        write_part(workspace.fs, f"{folder}/{TRACKS}", TRACKS, 0, track_table(data, vectors))
        write_part(workspace.fs, f"{folder}/{USERS}", USERS, 0, user_table(data, vectors))
        make_folder_of(workspace.fs, f"{folder}/{RECORD}")
        write_whole(workspace.fs, f"{folder}/{RECORD}", to_json(record_of(vectors, epochs), indent=2))
        checkpoint.delete()


# --- the sounds -----------------------------------------------------------------------------------------------------------------


def sound_settings(config: Config) -> SoundSettings:
    """What is computed of the sounds: what search needs of them, and what the model reads."""
    music = wanted(config)
    return SoundSettings(config.features.audio, music.sound.patches if music.tracks == "sound" else 0)


def _hear(run: StageRun, tracks: pa.Table) -> tuple[list[str], int]:
    """Write or share the part files of `track_features`. Returns the paths and the number of rows of all."""
    folder = f"{run.folder}/{SOUNDS}"
    run.fs.create_dir(folder, recursive=True)
    there, before = part_paths(run.fs, folder), run.previous_parts(SOUNDS)
    paths, work = list[str](), list[Callable[[], None]]()
    for media in _in_parts(tracks, sound_settings(run.config)):
        name = f"part-{_digest(run, media)}.parquet"
        if f"{SOUNDS}/{name}" in before:
            run.share(f"{SOUNDS}/{name}")
            paths.append(before[f"{SOUNDS}/{name}"])
            continue
        paths.append(f"{folder}/{name}")
        if paths[-1] not in there:  # a killed run may have written it
            work.append(partial(_write_sounds, run.workspace.uri, run.config, media, paths[-1]))
    if not paths:
        paths.append(write_part(run.fs, folder, SOUNDS, 0, tables.empty(SOUNDS)))
    log.info("music: the sounds of %d of %d part files are new or changed", len(work), len(paths))
    for _ in _execute(run.config, work):
        pass
    return paths, sum(read_footer(run.fs, path, SOUNDS).num_rows for path in paths)


def _in_parts(tracks: pa.Table, settings: SoundSettings) -> Iterator[pa.Table]:
    """The tracks with a file, in the columns that are decoded. A track stays in its part until the number of parts doubles."""
    if settings.audio is None and not settings.patches:
        return
    media = tracks.filter(pc.is_valid(tracks["uri"])).select(["track_id", "uri", "title"]).combine_chunks()
    versions = file_versions(media["uri"].to_pylist())
    media = media.rename_columns(["video_id", "uri", "title"]).append_column(
        "file_version", pa.array([versions.get(uri) for uri in media["uri"].to_pylist()], tables.TEXT)
    )
    parts = 1 << max(0, (media.num_rows - 1) // PART_TRACKS).bit_length()
    number = pa.array([zlib.crc32(track.encode()) % parts for track in media["video_id"].to_pylist()], pa.int64())
    for part in range(parts):
        if (some := media.filter(pc.equal(number, part))).num_rows:
            yield some


def _digest(run: StageRun, media: pa.Table) -> str:
    """What names a part file: its tracks, the versions of their files, and what is computed of them."""
    facts = [run.settings["sounds"], media.drop_columns(["title"]).to_pydict()]
    return hashlib.sha256(to_json(facts)).hexdigest()[:24]


def _execute(config: Config, work: Sequence[Callable[[], None]]) -> Iterator[tuple[int, None]]:
    if len(work) * PART_TRACKS <= LOCAL_TRACKS:
        return in_this_process(work)
    from rayrec.stages.on_ray.working import on_workers

    return on_workers(config)(work)


def _write_sounds(uri: str, config: Config, media: pa.Table, path: str) -> None:
    """Decode the sounds of some tracks in a process that may die, and write their features."""
    from rayrec.features.media.isolation import IsolatedDecoder
    from rayrec.features.rows import DECODED, Networks, network_rows
    from rayrec.music.sounds import sound_rows

    settings = sound_settings(config)
    decoder = IsolatedDecoder(sound_rows, settings, config.features.decode_timeout_s)
    try:
        decoded = decoder(media)
    finally:
        decoder.close()
    networks = Networks()
    if settings.audio is not None and settings.audio.model == "yamnet":
        from rayrec.features.yamnet.network import yamnet

        networks = Networks(audio=yamnet(settings.audio))
    features = network_rows(decoded.select(DECODED.names), settings.features, networks)
    columns = {"track_id": features["video_id"], **{name: features[name] for name in ("status", "error", "audio")}}
    rows = tables.validate(SOUNDS, pa.table(columns | {"patches": decoded["patches"]}))
    fs, _ = open_filesystem(uri)
    with written_whole(fs, path) as place:
        pq.write_table(rows, place, filesystem=fs, compression="zstd")


def _rejects(run: StageRun, tracks: pa.Table, paths: list[str]) -> pa.Table:
    """A row for each track whose file could not be heard, in the order of the tracks."""
    rows = read_files(run.fs, paths, SOUNDS, ["track_id", "status", "error"])
    failed = rows.filter(pc.equal(rows["status"], "failed"))
    at = pc.index_in(failed["track_id"], value_set=tracks["track_id"].combine_chunks())
    columns = {
        "stage": pa.array(["music"] * failed.num_rows, tables.TEXT),
        "source": tracks["uri"].take(at),
        "reason": failed["error"],
        "row": at.cast(pa.int64()),
        "id": failed["track_id"],
    }
    return tables.conform("rejects", pa.table(columns).sort_by("row"))


def sources(workspace: Workspace, config: Config) -> list[tuple[str, str]]:
    """The version of every sound that is read. One that has changed redoes the stage and, in it, the part of that track."""
    settings = sound_settings(config)
    if settings.audio is None and not settings.patches:
        return []
    return sorted(file_versions(workspace.read("tracks")["uri"].drop_null().to_pylist()).items())


def settings(config: Config) -> dict[str, Any]:
    """What the vectors and the features of the sounds depend on."""
    music, sounds = wanted(config), sound_settings(config)
    audio = sounds.audio
    return {
        "Music": music.model_dump(mode="json", exclude=NOT_LEARNED) | {"rating_range": music.data.rating_range},
        "sounds": {
            "audio": audio and dump(audio),
            "patches": sounds.patches,
            "weights": file_versions([audio.weights] if audio is not None and audio.weights else []),
        },
    }


def check(config: Config) -> None:
    """Raises `ConfigError` without the section, and for more workers or GPUs than there are."""
    settings = wanted(config)
    check_training("music", settings.workers, settings.gpus_per_worker)


STAGE = Stage(
    "music",
    learn_music,
    reads=("tracks", "ratings"),
    may_read=("users",),
    writes=(SOUNDS, TRACKS, USERS),
    settings=settings,
    sources=sources,
    check=check,
)
