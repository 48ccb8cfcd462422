"""The whole road on a cluster of three hosts that share nothing but a network, a bucket and a Redis, and what a lost host costs.

    PYTHONPATH=. python benchmarks/cluster.py                       # as root, on Linux
    PYTHONPATH=. python benchmarks/cluster.py --parts road          # the stages one after the other, then the service
    PYTHONPATH=. python benchmarks/cluster.py --parts scaling       # extract on one worker and on two, with a core each

The hosts are virtual (tests/virtual_hosts.py): one machine, but each host has a network interface, files and processes of its own.
The head and two workers are started as cluster.yaml says; jobs/*.py are submitted to the head, and serve_config.yaml is deployed.
extract, train and the service are run twice: undisturbed, and while a worker is cut off from the network and replaced. The results
must be the same. Exits with 1 if they are not, or if an answer of the service was neither a page nor a 503 with Retry-After.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from figures import show

from rayrec.workspace.versions import Workspace
from tests.virtual_cluster import VirtualCluster, virtual_cluster, wait_until
from tests.virtual_hosts import missing
from tests.virtual_load import Load, load

Rows = list[dict[str, Any]]
CONFIG = """
dataset: {kind: world, videos: VIDEOS, users: 60, topics: 6, days: 3, requests: 600, picture: 64, fps: 8}
features:
  image: {model: resnet18, weights: none, output: pooled, frames: 2, size: 32}
  motion: {model: r3d_18, weights: none, output: pooled, frames: 4, size: 32}
  batch_videos: 2
topics: {clusters: 6, epochs: 4, batch_size: 12, walks_per_tag: 2, tag_size: 16}
split: {validation: 0.2, test: 0.2}
ranker: {embedding_size: 4, hidden: [8], dropout: 0, id_dropout: 0}
training: {epochs: 60, patience: 60, batch_size: 128, workers: 2, without_topics: false, checkpoint_s: 0.5}
tuning: {space: {ranker.embedding_size: [4, 8]}, trials: 2, concurrent: 2, min_epochs: 1}
recall: {candidates: 20}
"""
HEAVIER = """
image: {model: resnet18, weights: none, output: pooled, frames: 4, size: 128}
motion: {model: r3d_18, weights: none, output: pooled, frames: 8, size: 64}
batch_videos: 4
"""  # The features of the demo, about: the network, the bucket and the head share the two cores with the workers.
CALM_S = 20.0  # of load before a host is cut off, and after it is back
START, END = 0.2, 0.9  # of the videos, between which the speed of extract is taken


# --- the road -------------------------------------------------------------------------------------------------------------------


def road(folder: Path, videos: int) -> Rows:
    config = yaml.safe_load(CONFIG.replace("VIDEOS", str(videos)))
    with virtual_cluster(folder) as cluster:
        rows = [stage(cluster, config, "ingest_data")]
        rows += twice(cluster, config, "extract_features", lambda: len(cluster.media_read()) > videos // 4, features)
        rows.append(stage(cluster, config, "learn_topics"))
        rows += twice(cluster, config, "train_ranker", lambda: cluster.stored("checkpoint.pt"), lambda _: clicks(cluster, config))
        rows += [stage(cluster, config, script) for script in ("tune_ranker", "publish_bundle")]
        return [*rows, *service(cluster, config)]


def stage(cluster: VirtualCluster, config: dict[str, Any], script: str, *options: str) -> dict[str, Any]:
    started = time.monotonic()
    cluster.submit(script, config, *options).end()
    return row(script, "", time.monotonic() - started)


def row(work: str, lost: str, seconds: float, **more: Any) -> dict[str, Any]:
    found = {"work": work, "lost": lost, "seconds": round(seconds, 1), "same": "", "200": "", "503": "", "other": "", **more}
    print(found, flush=True)
    return found


def twice(
    cluster: VirtualCluster,
    config: dict[str, Any],
    script: str,
    under_way: Callable[[], bool],
    result: Callable[[Workspace], Any],
) -> Rows:
    """A stage undisturbed, and again while a worker is cut off as soon as the stage is under way; are the results the same?"""
    undisturbed = stage(cluster, config, script)
    workspace = Workspace(cluster.workspace)
    expected = result(workspace)
    cluster.forget()
    started = time.monotonic()
    job = cluster.submit(script, config, "--force")
    wait_until(under_way, f"{script} under way")
    at_once = job.process.poll() is None
    cluster.cut("two")
    cluster.join("two")
    job.end()
    seconds = time.monotonic() - started
    return [undisturbed, row(script, "two", seconds, same=at_once and same(expected, result(workspace)))]


def features(workspace: Workspace) -> pa.Table:
    columns = ["video_id", "status", "image", "cover", "motion", "audio"]
    return workspace.read("features", columns).sort_by("video_id")


def clicks(cluster: VirtualCluster, config: dict[str, Any]) -> dict[str, float]:
    """The metrics of the trained ranker on the test split, which a job computes."""
    cluster.submit("evaluate_ranker", config).end()
    workspace = Workspace(cluster.workspace)
    report = json.loads(workspace.read_file(f"{workspace.check('evaluate')}/report.json"))
    return {name: value for name, value in report["clicks"]["with topics"].items() if isinstance(value, float)}


def same(one: Any, other: Any) -> bool:
    """Whether results are the same but for rounding, which depends on how the batches of decoders and workers fall."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(np.isclose(one[name], other[name], atol=1e-3) for name in one)
    if one.num_rows != other.num_rows:
        return False
    return all(same_column(one[name].combine_chunks(), other[name].combine_chunks()) for name in one.column_names)


def same_column(one: pa.Array, other: pa.Array) -> bool:
    if not pa.types.is_nested(one.type):
        return bool(one.equals(other))
    left, right = one.flatten(), other.flatten()
    return len(left) == len(right) and bool(np.allclose(left.to_numpy(False), right.to_numpy(False), rtol=1e-3, atol=1e-4))


# --- the service ----------------------------------------------------------------------------------------------------------------


def service(cluster: VirtualCluster, config: dict[str, Any]) -> Rows:
    """Pages through each host, then with a worker cut off, then with the worker back."""
    started = time.monotonic()
    cluster.deploy(config)
    cluster.await_service(*cluster.hosts.addresses)
    rows = [row("serve deploy", "", time.monotonic() - started)]
    with load(cluster.client, list(cluster.hosts.addresses)) as calm:
        time.sleep(CALM_S)
    rows.append(answered("pages through all hosts", "", CALM_S, calm))
    with load(cluster.client, ["head", "one"]) as disturbed:
        started = time.monotonic()
        cluster.cut("two")
        noticed = time.monotonic() - started
        time.sleep(CALM_S)
        rows.append(answered("pages through head and one", "two", time.monotonic() - started, disturbed))
        refused = [answer.at - started for answer in disturbed.answers if answer.status != 200]
        print(f"two was counted as lost after {noticed:.0f} s; refusals {[round(at, 1) for at in refused]}", flush=True)
    started = time.monotonic()
    cluster.join("two")
    cluster.await_service("two")
    rows.append(row("two is back and answers", "", time.monotonic() - started))
    return rows


def answered(work: str, lost: str, seconds: float, found: Load) -> dict[str, Any]:
    """`other` are answers that are neither pages nor documented refusals."""
    other = sum(not answer.documented for answer in found.answers)
    return row(work, lost, seconds, **{"200": found.of(200), "503": found.of(503), "other": other})


# --- one host and two -----------------------------------------------------------------------------------------------------------


def scaling(folder: Path, videos: int) -> Rows:
    """Videos a second of extract on one worker and on two, each with one core of its own; the head takes what is left.

    A core counts as two CPUs, so that a worker has room for a decoder and for the networks.
    """
    config = yaml.safe_load(CONFIG.replace("VIDEOS", str(videos))) | {"features": yaml.safe_load(HEAVIER)}
    rows = []
    with virtual_cluster(folder, cores={"one": 0, "two": 1}, cpus=2) as cluster:
        stage(cluster, config, "ingest_data")
        cluster.run("two", "ray stop")
        for workers in (("one",), ("one", "two")):
            if len(workers) == 2:
                cluster.start_worker("two")
            cluster.await_workers(*workers)
            cluster.forget()
            job, times = cluster.submit("extract_features", config, "--force"), []
            for share in (START, END):
                wait_until(lambda share=share: len(cluster.media_read()) >= share * videos, f"{share:.0%} of the videos")
                times.append(time.monotonic())
            job.end()
            speed = (END - START) * videos / (times[1] - times[0])
            rows.append({"workers": len(workers), "videos_per_s": round(speed, 2)})
            print(rows[-1], flush=True)
    rows[-1]["ratio"] = round(rows[1]["videos_per_s"] / rows[0]["videos_per_s"], 2)
    return [{"ratio": "", **each} for each in rows]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", default=["road", "scaling"], choices=["road", "scaling"])
    parser.add_argument("--videos", type=int, default=60, help="of the road")
    parser.add_argument("--many", type=int, default=300, help="videos, of the scaling")
    options = parser.parse_args()
    if reason := missing():
        parser.error(reason)
    right = True
    for part, videos in (("road", options.videos), ("scaling", options.many)):
        if part in options.parts:
            with tempfile.TemporaryDirectory(prefix="rayrec-cluster-") as folder:
                rows = {"road": road, "scaling": scaling}[part](Path(folder), videos)
            right = right and all(each.get("same") is not False and not each.get("other") for each in rows)
            show("One worker and two" if part == "scaling" else "Three hosts", rows, videos=videos)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
