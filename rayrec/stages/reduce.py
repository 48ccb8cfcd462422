"""The stage `reduce`: normalises the extracted vectors and reduces them by PCA; the result is the table `vectors`.

It makes two passes over the part files of `features`. The first takes the moments of the videos that training saw, which are then
merged and fitted; the second maps all videos and writes parts. At most `LOCAL_VIDEOS` videos are reduced in this process, in the
order of their ids, so that two runs give the same vectors, whichever videos were extracted first. More are reduced on Ray Data, in
shares of the files: there the sums of the first pass, and so the vectors, may differ by rounding. A later run with the same
settings keeps the fit of every modality whose raw vectors still come from the same networks, so that a model that was trained on
reduced vectors can read those of new videos.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce as fold
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.config import EXTRACTED_MODALITIES, MODALITIES, Config, settings_of
from rayrec.data.pieces import LogPieces
from rayrec.features.reduction import Moments, Reduction, matrix, merged, moments_of, pack, reduced, unpack
from rayrec.workspace.files import from_json, to_json
from rayrec.workspace.parts import read_checked, read_footer
from rayrec.workspace.stage import Stage, StageRun

ARRAYS, FACTS = "reduction.safetensors", "reduction.json"
CHUNK_VIDEOS = 4096  # in memory at a time; also the most that a part of `vectors` holds
SHARE_FILES = 32  # part files of `features` in a share
LOCAL_VIDEOS = 20_000  # the most that this process reduces alone; it does so in the seconds that a Ray cluster takes to start

log = logging.getLogger(__name__)


def reduce(run: StageRun) -> None:
    """Fit what is not kept from the previous version, then map every video. Raises `TableError` for vectors of mixed sizes."""
    folder = f"{run.folder}/vectors"
    run.fs.create_dir(folder, recursive=True)
    run.fs.delete_dir_contents(folder)  # what a killed run left
    digests = run.part_digests("features")
    paths = list(digests)
    private_public = run.read_if_there("private_public") if paths and run.config.private_public else None
    features = FeatureFiles(run.fs, digests, private_public, in_order=run.workspace.rows("features") <= LOCAL_VIDEOS)
    origins = _origins(run)
    reductions = _kept(run, origins, features.sizes(paths[:1]))
    if reductions:
        log.info("reduce: the fit of %s is kept (`--force` makes a new one)", ", ".join(reductions))
    reductions |= _fitted(run, paths, features, [name for name in MODALITIES if name not in reductions])
    _over_files(run, paths, _write_vectors, (features, reductions, folder))
    facts = {name: _facts(fit) | {"origin": origins[name]} for name, fit in reductions.items()}
    run.write_file(ARRAYS, pack(reductions))
    run.write_file(FACTS, to_json({"settings": run.settings, "modalities": facts}, indent=1))
    rows = run.written_in_parts("vectors")
    run.count(rows_in=rows, rows_out=rows)


def settings(config: Config) -> dict[str, Any]:
    return settings_of(config.reduction, config.split) | {"private_public": config.private_public is not None}


# --- fitting --------------------------------------------------------------------------------------------------------------------


def _fitted(run: StageRun, paths: list[str], features: "FeatureFiles", names: list[str]) -> dict[str, Reduction]:
    """The reductions of these modalities, for those that some video of the training split has."""
    packed = _over_files(run, paths, _moments, (features, names, _trained(run)))
    moments: dict[str, Moments] = fold(merged, (unpack(Moments, value) for value in packed), {})
    sizes = {str(name): size for name, size in run.config.reduction.sizes.items()}
    normalise = run.config.reduction.normalise
    reductions = {name: Reduction.fit(moments[name], normalise, sizes.get(name)) for name in names if name in moments}
    for name, fit in reductions.items():
        kept = "" if fit.explained is None else f", {fit.explained.sum():.1%} of the variance"
        log.info("reduce: %s %d -> %d numbers%s (fitted on %d videos)", name, fit.raw_size, fit.size, kept, fit.count)
    empty = [name for name, fit in reductions.items() if not fit.size]
    if empty:
        log.warning("reduce: %s is left out, because all of its vectors are the same", ", ".join(empty))
    return {name: fit for name, fit in reductions.items() if fit.size}


def _trained(run: StageRun) -> pa.Array | None:
    """The ids of the videos that the log's training split shows; None, which stands for all videos, where there is no such log."""
    log = LogPieces.of(run.fs, run.part_digests("interactions")) if run.workspace.has("interactions") else None
    if log is None or not log.rows:
        return None
    validation_at, shown = log.validation_at(run.config.split), pa.array([], tables.TEXT)
    for piece in log.pieces:
        if piece.begin < validation_at:
            rows = piece.read(run.fs, ["video_id", "shown_at"])
            found = rows["video_id"].filter(pc.less(rows["shown_at"], validation_at))
            shown = pc.unique(pa.chunked_array([shown, *found.chunks], tables.TEXT))
    return shown if len(shown) else None


def _origins(run: StageRun) -> dict[str, Any]:
    """What the raw vectors of each modality come from, because a fit is of no use for the vectors of another network."""
    origins: dict[str, Any] = dict.fromkeys(MODALITIES)
    for stage, names in (("extract", EXTRACTED_MODALITIES), ("private_public", ("private_public",))):
        manifest = run.workspace.manifest(stage)
        if manifest is not None:
            trained = _digest(run.fs, f"{run.workspace.root}/{stage}/{manifest.version}/network.safetensors")
            origins |= {name: {"settings": manifest.settings, "network": trained} for name in names}
    return origins


def _digest(fs: pafs.FileSystem, path: str) -> str | None:
    """The digest of a file's bytes; None when there is no such file."""
    if not fs.get_file_info(path).is_file:
        return None
    with fs.open_input_file(path) as file:
        return hashlib.sha256(file.read()).hexdigest()


def _kept(run: StageRun, origins: dict[str, Any], raw_sizes: dict[str, int]) -> dict[str, Reduction]:
    """The reductions of the previous version that are valid for this one too."""
    if run.previous is None or run.previous.settings != run.settings:
        return {}
    with run.fs.open_input_file(f"{run.previous_folder}/{FACTS}") as file:
        facts = from_json(file.read())["modalities"]
    with run.fs.open_input_file(f"{run.previous_folder}/{ARRAYS}") as file:
        reductions = unpack(Reduction, file.read())
    return {
        name: fit
        for name, fit in reductions.items()
        if facts[name]["origin"] == origins[name] and raw_sizes.get(name, fit.raw_size) == fit.raw_size
    }


def _facts(fit: Reduction) -> dict[str, Any]:
    explained = None if fit.explained is None else [round(share, 6) for share in fit.explained.tolist()]
    return {"raw_size": fit.raw_size, "size": fit.size, "explained_variance": explained, "fitted_on": fit.count}


# --- the passes -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureFiles:
    """Reads the raw vectors of part files of `features`, as rows of `vectors`.

    The first pass compares the checksums; the second one reads the columns alone.
    """

    fs: pafs.FileSystem
    digests: dict[str, str]
    private_public: pa.Table | None  # is not in these files: joined by id
    in_order: bool = False  # of the ids; all files are in memory then

    def chunks(self, paths: list[str], names: list[str], checked: bool = False) -> Iterator[pa.Table]:
        """Tables of at most about `CHUNK_VIDEOS` rows with the named modalities; the other modalities are null.

        With `checked`, raises `WorkspaceError` for a file that is damaged.
        """
        if self.in_order and paths:
            rows = pa.concat_tables([self._part(path, names, checked) for path in paths]).sort_by("video_id")
            yield from (rows.slice(start, CHUNK_VIDEOS) for start in range(0, rows.num_rows, CHUNK_VIDEOS))
            return
        waiting: list[pa.Table] = []
        for path in paths:
            waiting.append(self._part(path, names, checked))
            if sum(part.num_rows for part in waiting) >= CHUNK_VIDEOS:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)

    def sizes(self, paths: list[str]) -> dict[str, int]:
        """The length of the vectors of each modality that these files have."""
        return {
            name: matrix(chunk[name], name).shape[1]
            for chunk in self.chunks(paths, list(MODALITIES), checked=True)
            for name in MODALITIES
            if chunk[name].null_count < chunk.num_rows
        }

    def _part(self, path: str, names: list[str], checked: bool) -> pa.Table:
        columns = ["video_id", *names, *([tables.MAPS_SHAPE] if tables.MAPS in names else [])]
        if checked:
            part = read_checked(self.fs, path, self.digests[path], "features", columns)
        else:
            present = read_footer(self.fs, path, "features").schema.to_arrow_schema().names
            part = pq.read_table(path, filesystem=self.fs, columns=[name for name in columns if name in present])
        if "private_public" in names and self.private_public is not None:
            rows = pc.index_in(part["video_id"], value_set=self.private_public["video_id"])
            part = part.append_column("private_public", self.private_public["vector"].take(rows))
        return tables.conform("vectors", part)


def _over_files(run: StageRun, paths: list[str], work: Callable[[int, list[str], Any], bytes], shared: Any) -> list[bytes]:
    """`work(number, paths, shared)` for all part files of a small table here, for each share of a large one with Ray Data."""
    if run.workspace.rows("features") > LOCAL_VIDEOS:
        from rayrec.serving.cluster.connection import connect
        from rayrec.stages.on_ray.data import map_files

        connect(run.config)
        return map_files(work, paths, SHARE_FILES, shared)
    return [work(0, paths, shared)]


def _moments(number: int, paths: list[str], shared: tuple[FeatureFiles, list[str], pa.Array | None]) -> bytes:
    features, names, trained = shared
    found: dict[str, Moments] = {}
    for chunk in features.chunks(paths, names, checked=True):
        rows = chunk if trained is None else chunk.filter(pc.is_in(chunk["video_id"], value_set=trained))
        found = merged(found, moments_of(rows, names))
    return pack(found)


def _write_vectors(number: int, paths: list[str], shared: tuple[FeatureFiles, dict[str, Reduction], str]) -> bytes:
    features, reductions, folder = shared
    for chunk_number, chunk in enumerate(features.chunks(paths, list(reductions))):
        columns: dict[str, pa.Array | pa.ChunkedArray]
        columns = {name: reduced(chunk[name], fit, name) for name, fit in reductions.items()}
        if tables.MAPS in reductions:
            columns[tables.MAPS_SHAPE] = chunk[tables.MAPS_SHAPE]
        part = tables.conform("vectors", pa.table({"video_id": chunk["video_id"]} | columns))
        path = f"{folder}/part-{number:06d}-{chunk_number:06d}.parquet"
        pq.write_table(part, path, filesystem=features.fs, compression="zstd")
    return b""


STAGE = Stage(
    "reduce",
    reduce,
    reads=("features",),
    may_read=("interactions", "private_public"),
    writes=("vectors",),
    settings=settings,
)
