"""The stage `extract` against a bare loop of processes that does the same work, and where the time goes.

    python benchmarks/extraction.py [KEY=VALUE]... [--clips DIR] [--media DIR] [--videos N] [--runs N] [--gpu]

The clips are the synthetic world's, made on the first run. Both sides decode the same files, run the same networks with as many
processes and threads, mix as many videos in a batch, and write the same part files. They take turns in one run. Two ratios:
`all`, from the call to the last part on disk, with the loading of networks and the starting of processes on both sides (of Ray
only the cluster is up already); `steady`, from the first part on disk to the last.
"""

import argparse
import itertools
import multiprocessing
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait must not take a core from the others

import pyarrow as pa
import pyarrow.fs as pafs
from figures import median_of, show

from rayrec.config import Config, Features, WorldData, load
from rayrec.features import audio
from rayrec.features.media import decode, timeline
from rayrec.features.media.timeline import Timeline
from rayrec.features.part_files import Part, write_rows
from rayrec.features.rows import Networks, decode_rows, load_networks, network_rows, resolved
from rayrec.stages.extract import PART_S, PART_VIDEOS

ROOT = Path(__file__).parents[1]
MAX_WAIT_S = 600  # for a bare process that may have died


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("settings", nargs="*", help="section.key=value on top of configs/demo.yaml")
    arguments.add_argument("--clips", default=f"{tempfile.gettempdir()}/rayrec-clips", help="folder of the clips, made when absent")
    arguments.add_argument("--media", help="folder of longer videos of your own, on which decoding is measured as well")
    arguments.add_argument("--videos", type=int, default=300)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--part", type=int, default=PART_VIDEOS, help="videos in a part file")
    arguments.add_argument("--pipeline-only", action="store_true", help="only Ray against processes")
    arguments.add_argument("--cpus", type=int, default=os.cpu_count(), help="that Ray may use")
    arguments.add_argument("--gpu", action="store_true", help="run the networks on a GPU, and the image network alone as well")
    given = arguments.parse_args()
    config = load(ROOT / "configs" / "demo.yaml", [*given.settings, *(["features.gpus_per_model=1"] if given.gpu else [])])
    videos = make_clips(Path(given.clips), given.videos, config.seed)
    some = videos.slice(0, min(100, len(videos)))
    if not given.pipeline_only:
        work_shares(some, config)
        needed_frames(some, config, f"{len(some)} clips", given.runs)
    if given.media:
        needed_frames(rows_of(sorted(Path(given.media).iterdir())), config, given.media, given.runs)
    against_processes(videos, config, given.runs, given.cpus, given.gpu, given.part)


def make_clips(folder: Path, count: int, seed: int) -> pa.Table:
    """The rows to decode."""
    from rayrec.datasets.synthetic import media, world

    clips = world.make(WorldData(videos=count, users=10, requests=20, days=2, picture=128), seed).clips
    media.write_clips(clips, pafs.LocalFileSystem(), str(folder))
    return rows_of([folder / f"{clip.name}.mp4" for clip in clips])


def rows_of(paths: list[Path]) -> pa.Table:
    """What `decode_rows` takes."""
    names, uris, nothing = [path.stem for path in paths], [str(path) for path in paths], pa.nulls(len(paths), pa.string())
    return pa.table({"video_id": names, "uri": uris, "title": nothing, "file_version": nothing})


# --- where the time goes --------------------------------------------------------------------------------------------------------


def work_shares(videos: pa.Table, config: Config) -> None:
    """CPU seconds of each part of the work, in one process with one thread."""
    import torch

    from rayrec.features import image, motion

    torch.set_num_threads(1)
    networks = load_networks(config.features, config.seed)
    settings = resolved(config.features, networks)
    spent: dict[str, float] = defaultdict(float)
    parts = [(decode, "decode"), (audio, "audio_features"), (image, "image_features"), (motion, "motion_features")]
    start = time.process_time()
    with timed(parts, spent):
        decoded = [decode_rows(batch, settings) for batch in batches(videos, config.features)]
        for batch in decoded:
            network_rows(batch, settings, networks)
    spent["the rest"] = time.process_time() - start - sum(spent.values())
    total = sum(spent.values())
    show(
        f"work of extract, {len(videos)} clips, one core",
        [{"part": name, "cpu_s": round(seconds, 2), "share": round(seconds / total, 3)} for name, seconds in spent.items()],
        videos_per_s=round(len(videos) / total, 2),
        cnn_images_per_s=round(images(pa.concat_tables(decoded), settings) / spent["image_features"], 1),
    )


def needed_frames(videos: pa.Table, config: Config, title: str, runs: int) -> None:
    """Decoding the needed frames against decoding all, in turn; the sound is left out."""
    settings = resolved(config.features, load_networks(config.features, config.seed))
    spent: dict[str, list[float]] = {"needed": [], "all": []}
    frames = {}
    for _ in range(runs):
        for way, found in spent.items():
            with counted() as count, patched(Timeline, "frames_at", all_frames if way == "all" else Timeline.frames_at):
                found.append(cpu_seconds(lambda: pictures(videos, settings)))
            frames[way] = count[0]
    ratios = [other / own for own, other in zip(*spent.values(), strict=True)]
    rows = [
        {"way": way, "cpu_s": cpu_s, "frames_decoded": frames[way], "videos_per_cpu_s": len(videos) / cpu_s}
        for way, cpu_s in ((way, median_of(found)) for way, found in spent.items())
    ]
    show(f"picture decoding of {title}: the needed frames against all", rows, speedup=round(median_of(ratios), 3))


def batches(videos: pa.Table, features: Features) -> Iterator[pa.Table]:
    size = features.batch_videos
    return (videos.slice(start, size) for start in range(0, len(videos), size))


def images(decoded: pa.Table, settings: Features) -> int:
    """How many pictures go through the image network for these rows: sampled frames and covers."""
    side = settings.image.size if settings.image else None
    size = (side or 1) ** 2 * 3
    sizes = (len(value) for name in ("images", "cover_pixels") for value in decoded[name].drop_null().to_pylist())
    return sum(sizes) // size


def pictures(videos: pa.Table, settings: Features) -> None:
    """Decode without the sound."""
    decode_rows(videos, settings.model_copy(update={"audio": None}))


def cpu_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@contextmanager
def timed(functions: list[tuple[Any, str]], spent: dict[str, float]) -> Iterator[None]:
    """Adds the CPU time of each (module, function) to `spent` under the function's name."""

    def clock(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args)
            finally:
                spent[name] += time.process_time() - start

        return call

    originals = [(module, name, getattr(module, name)) for module, name in functions]
    for module, name, function in originals:
        setattr(module, name, clock(name, function))
    try:
        yield
    finally:
        for module, name, function in originals:
            setattr(module, name, function)


@contextmanager
def patched(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


@contextmanager
def counted() -> Iterator[list[int]]:
    """A list whose one number is how many frames the decoder has put out."""
    count = [0]
    frames_of = timeline._frames_of

    def counting(*args: Any) -> list[Any]:
        frames = frames_of(*args)
        count[0] += len(frames)
        return frames

    with patched(timeline, "_frames_of", counting):
        yield count


def all_frames(self: Timeline, positions: set[int], counts: Any) -> Iterator[tuple[int, Any]]:
    """`Timeline.frames_at`, the plain way."""
    frames = enumerate(timeline.decoded(self.stream, self.packets, counts))
    return ((place, frame) for place, frame in frames if place in positions)


# --- Ray against processes ------------------------------------------------------------------------------------------------------


class Written:
    """Notes when parts are written, into a folder of its own."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.folder = tempfile.TemporaryDirectory()
        self.names = (f"{self.folder.name}/part-{number:06d}.parquet" for number in itertools.count())
        self.at: list[tuple[float, int]] = []

    def add(self, part: Part) -> None:
        failed = [row for row in part.states.to_pylist() if row["status"] != "ok"]
        assert not failed, failed[0]
        self.at.append((time.perf_counter() - self.start, part.states.num_rows))

    def figures(self) -> dict[str, float]:
        """Videos a second: all in, and between the first and the last part."""
        (first, at_first), (last, _) = self.at[0], self.at[-1]
        total = sum(count for _, count in self.at)
        self.folder.cleanup()
        figures = {"all": total / last, "steady": (total - at_first) / (last - first), "seconds": last, "first_part": first}
        print({name: round(figure, 2) for name, figure in figures.items()}, flush=True)
        return figures


def against_processes(videos: pa.Table, config: Config, runs: int, cpus: int, gpu: bool, part_videos: int) -> None:
    import ray

    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    runs_of: dict[str, list[dict[str, float]]] = {"ray": [], "processes": []}
    busy: list[float] = []
    try:
        for _ in range(runs):
            with gpu_busy(busy if gpu else None):
                runs_of["ray"].append(through_ray(videos, config, part_videos))
            runs_of["processes"].append(through_processes(videos, config, cpus, gpu, part_videos))
    finally:
        ray.shutdown()
    rows_ = [
        {"pipeline": name, **{key: round(median_of([run[key] for run in found]), 2) for key in found[0]}}
        for name, found in runs_of.items()
    ]
    pairs = list(zip(runs_of["ray"], runs_of["processes"], strict=True))
    facts = {f"ratio_{key}": round(median_of([ours[key] / bare[key] for ours, bare in pairs]), 3) for key in ("all", "steady")}
    if gpu:
        facts |= gpu_facts(videos, config, median_of([run["steady"] for run in runs_of["ray"]]), busy)
    show(f"extract, {len(videos)} clips, videos/s, median of {runs}", rows_, **facts)


def through_ray(videos: pa.Table, config: Config, part_videos: int) -> dict[str, float]:
    from rayrec.stages.on_ray.extraction import extract_rows
    from rayrec.stages.on_ray.writing import write_blocks

    written = Written()
    for part in write_blocks(extract_rows(videos, config), written.folder.name, written.names, part_videos, PART_S):
        written.add(part)
    return written.figures()


def through_processes(videos: pa.Table, config: Config, cpus: int, gpu: bool, part_videos: int) -> dict[str, float]:
    """As many decoders and models as the pipeline has, each a process; queues between them. The caller writes."""
    from rayrec.stages.on_ray.extraction import TORCH_THREADS, pools_of

    written, features = Written(), config.features
    networks = load_networks(features, config.seed)
    settings = resolved(features, networks)
    spawn = multiprocessing.get_context("spawn")
    pools = pools_of(features, len(videos), cpus, 1, int(gpu))
    decoders, models = pools.decoders[0], pools.models[0]
    todo, decoded, done = spawn.Queue(), spawn.Queue(2 * (decoders + models)), spawn.Queue()
    model = (decoded, done, settings, networks, "cuda" if gpu else "cpu", TORCH_THREADS)
    processes = [spawn.Process(target=decode_loop, args=(todo, decoded, settings), daemon=True) for _ in range(decoders)]
    processes += [spawn.Process(target=model_loop, args=model, daemon=True) for _ in range(models)]
    for process in processes:
        process.start()
    for batch in batches(videos, features):
        todo.put(batch)
    for _ in range(decoders):
        todo.put(None)
    waiting, left, begun = [], len(videos), time.monotonic()
    while left:
        waiting.append(done.get(timeout=MAX_WAIT_S))
        left -= len(waiting[-1])
        if sum(map(len, waiting)) >= part_videos or time.monotonic() > begun + PART_S or not left:
            written.add(write_rows(written.folder.name, next(written.names), *waiting))
            waiting, begun = [], time.monotonic()
    for _ in range(models):
        decoded.put(None)
    for process in processes:
        process.join()
    return written.figures()


def decode_loop(todo: "Queue[pa.Table | None]", decoded: "Queue[pa.Table | None]", settings: Features) -> None:
    for batch in iter(todo.get, None):
        decoded.put(decode_rows(batch, settings))


def model_loop(
    decoded: "Queue[pa.Table | None]", done: "Queue[pa.Table]", settings: Features, networks: Networks, device: str, threads: int
) -> None:
    import torch

    torch.set_num_threads(threads)
    networks = networks.to(torch.device(device))
    for batch in iter(decoded.get, None):
        done.put(network_rows(batch, settings, networks))


# --- on a GPU -------------------------------------------------------------------------------------------------------------------


@contextmanager
def gpu_busy(samples: list[float] | None) -> Iterator[None]:
    """Samples the share of time in which the GPU ran anything, five times a second; needs the package nvidia-ml-py."""
    if samples is None:
        yield
        return
    import torch

    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.2):
            samples.append(torch.cuda.utilization() / 100)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def gpu_facts(videos: pa.Table, config: Config, videos_per_s: float, busy: list[float]) -> dict[str, Any]:
    """Pictures a second through the image network: in the pipeline, and alone on tensors that lie on the device."""
    import torch

    networks = load_networks(config.features, config.seed)
    settings = resolved(config.features, networks)
    sample = decode_rows(videos.slice(0, 16), settings)
    in_pipeline = videos_per_s * images(sample, settings) / len(sample)
    network = networks.to(torch.device("cuda")).image
    assert network is not None
    assert settings.image is not None
    side = settings.image.size or 0
    pixels = torch.randint(0, 256, (256, side, side, 3), dtype=torch.uint8, device="cuda")
    seconds = []
    with torch.inference_mode():
        for _ in range(12):
            torch.cuda.synchronize()
            start = time.perf_counter()
            network(pixels)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    alone = len(pixels) / median_of(seconds[2:])
    share = round(sum(busy) / len(busy), 3) if busy else None
    return {
        "images_per_s": round(in_pipeline),
        "alone": round(alone),
        "ratio_images": round(in_pipeline / alone, 3),
        "gpu_busy": share,
    }


if __name__ == "__main__":
    main()
