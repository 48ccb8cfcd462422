"""What compression costs and brings: bytes, quality and pictures a second, of networks whose quality can be measured.

    python benchmarks/compression.py cifar --pictures DIR --weights FILE... [--points KEEP:VALUES:BIT_COST...] [--scratch FOLDER] \\
        [--figure FILE] [KEY=VALUE]...
    python benchmarks/compression.py retrieval --pictures DIR [--size N] [--scratch FOLDER] [KEY=VALUE]...
    python benchmarks/compression.py speed --pictures DIR --weights FILE... [--size N]

DIR holds train/CLASS/*.jpg and test/CLASS/*.jpg of CIFAR-10. `cifar` compresses ResNets for CIFAR-10 at several points of a curve:
they learn from the training pictures alone, a part of which is held out to choose epochs and the point; the test pictures are
looked at once for each point. `retrieval` compresses efficientnet_lite0 and measures the mean average precision of each test
picture's nearest others (relevant: the same class). `speed` compares the kernels alone, without any training. The speeds are
medians of several runs, in which all forms take turns. With `--scratch`, a killed run goes on where it was, and no file is
made twice. KEY=VALUE changes `features.image.compression`.
"""

import argparse
import copy
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cifar_resnets
import numpy as np
import torch
from figures import show
from pyarrow.fs import LocalFileSystem

from rayrec.config import Compression, ImageFeatures
from rayrec.features.compression import fitting, loading
from rayrec.features.compression.int8 import quantised
from rayrec.features.compression.pictures import Pictures, read_folder
from rayrec.features.compression.report import layer_rows
from rayrec.features.image import image_network
from rayrec.features.networks import FeatureNetwork
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.training.progress import describe
from rayrec.workspace.checkpoint import Checkpoint

SEED = 7
ALL = 10**6  # pictures
POINTS = ["1:32:0.02", "1:32:0.035", "1:32:0.06", "1:32:0.1"]
CALIBRATION = 512
MAX_LOSS = 0.005  # of accuracy


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["cifar", "retrieval", "speed"])
    arguments.add_argument("settings", nargs="*", help="KEY=VALUE of features.image.compression")
    arguments.add_argument("--pictures", type=Path, required=True)
    arguments.add_argument("--weights", type=Path, nargs="+", default=[])
    arguments.add_argument(
        "--points", nargs="+", default=POINTS, help="the kept share, the number of shared values, the cost of a bit"
    )
    arguments.add_argument("--scratch", type=Path, help="where checkpoints and files are kept")
    arguments.add_argument("--size", type=int, default=128, help="of the pictures that efficientnet_lite0 reads")
    arguments.add_argument("--figure", type=Path, help="where the curve is drawn")
    arguments.add_argument("--runs", type=int, default=7)
    given = arguments.parse_intermixed_args()
    changes = dict(pair.split("=", 1) for pair in given.settings)
    settings = Compression.model_validate({"file": "none.rrz", "held_out": 0.2} | changes)
    if given.what == "retrieval":
        retrieval(given.pictures, given.size, settings, given.runs, given.scratch)
        return
    if given.what == "speed":
        speed(given.weights, given.pictures, given.size, given.runs)
        return
    curves = {}
    for weights in given.weights:
        curves[weights.name.split("_")[0]] = cifar(weights, given.pictures, given.points, settings, given.runs, given.scratch)
    if given.figure:
        draw(curves, given.figure)


# --- the two measurements -------------------------------------------------------------------------------------------------------


def cifar(
    weights: Path, folder: Path, points: list[str], settings: Compression, runs: int, scratch: Path | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the curve of one network, the original's first, and the speeds of its forms."""
    original = cifar_resnets.load(weights)
    name = weights.name.split("_")[0]
    train, held_out = pictures_of(folder / "train", original, settings.max_pictures).split(settings.held_out, SEED)
    test = pictures_of(folder / "test", original)
    rows: list[dict[str, Any]] = [{"point": "original", "times_smaller": 1.0} | accuracies("float32", original, held_out, test)]
    networks, files = dict[str, tuple[FeatureNetwork, FeatureNetwork]](), dict[str, bytes]()
    for point in points:
        keep, values, bit_cost = point.split(":")
        own = settings.model_copy(update={"keep": float(keep), "clusters": int(values), "bit_cost": float(bit_cost)})
        task = fitting.Task(original, train, held_out, own, SEED)
        data, small, fast = compressed(task, f"{name} {point}", scratch)
        files[point], ratio = data, loading_facts(data)["original_bytes"] / len(data)
        found = {"point": point, "bytes": len(data), "times_smaller": round(ratio, 2)}
        found["distortion"] = round(fitting.distortion(fitting.outputs(small, held_out), fitting.outputs(original, held_out)), 4)
        rows.append(found | accuracies("float32", small, held_out, test) | accuracies("int8", fast, held_out, test))
        print(rows[0], rows[-1], sep="\n", file=sys.stderr)
        networks[point] = small, fast
    columns = dict.fromkeys(key for row in rows for key in row)
    show(f"{name} on CIFAR-10", [{key: row.get(key, "") for key in columns} for row in rows], **facts_of(train, held_out, test))
    chosen = chosen_point(rows)
    layers(f"{name} {chosen}", original, files[chosen])
    small, fast = networks[chosen]
    forms = {"original": original, "original, int8": int8_of(original, train), chosen: small, f"{chosen}, int8": fast}
    return rows, speeds(name, forms, test.pixels[:256], runs)


def retrieval(folder: Path, size: int, settings: Compression, runs: int, scratch: Path | None) -> None:
    """mAP of nearest neighbours by the features of efficientnet_lite0, before and after."""
    image = ImageFeatures(model="efficientnet_lite0", output="pooled", size=size)
    original = image_network(image, SEED)
    train, held_out = pictures_of(folder / "train", original, settings.max_pictures).split(settings.held_out, SEED)
    test = pictures_of(folder / "test", original)
    data, small, fast = compressed(fitting.Task(original, train, held_out, settings, SEED), "efficientnet_lite0", scratch)
    forms = {"original": original, "compressed": small, "compressed, int8": fast}
    rows = []
    for name, form in forms.items():
        size_bytes = loading_facts(data)["original_bytes"] if name == "original" else len(data)
        rows.append({"network": name, "bytes": size_bytes, "mAP": mean_average_precision(form, test)})
    show(f"nearest neighbours by efficientnet_lite0, {size} pixels", rows, **facts_of(train, held_out, test))
    speeds("efficientnet_lite0", forms, test.pixels[:64], runs)
    layers("efficientnet_lite0", original, data)


def speed(weights: list[Path], folder: Path, size: int, runs: int) -> None:
    """The kernels alone: the ResNets and efficientnet_lite0 in float32 and in integers."""
    image = ImageFeatures(model="efficientnet_lite0", output="pooled", size=size)
    networks = {path.name.split("_")[0]: cifar_resnets.load(path) for path in weights} | {"lite0": image_network(image, SEED)}
    for name, network in networks.items():
        train = pictures_of(folder / "train", network, 256)
        fast = int8_of(network, train)
        change = fitting.distortion(fitting.outputs(fast, train), fitting.outputs(network, train))
        print(f"{name}: distortion by 8-bit integers alone {change:.4f}")
        speeds(name, {"original": network, "int8": fast}, train.pixels[: 256 if name != "lite0" else 64], runs)


# --- compressing ----------------------------------------------------------------------------------------------------------------


def compressed(task: fitting.Task, name: str, scratch: Path | None) -> tuple[bytes, FeatureNetwork, FeatureNetwork]:
    """The file, the network that it holds, and this network with 8-bit kernels."""
    place = fitting.Place(callback=TrainingCallback(lambda epochs: tell(name, epochs)))
    kept = None if scratch is None else scratch / f"{name.replace(' ', '-').replace(':', '-')}.rrz"
    if kept is not None and kept.is_file():
        data = kept.read_bytes()
    else:
        network = copy.deepcopy(task.original)
        fitting.pruned(network, fitting.kept_shares(network, task), task, resumable(place, kept, "pruned"))
        fitting.shared(network, task, resumable(place, kept, "shared"))
        batches = torch.from_numpy(task.train.pixels[:CALIBRATION]).split(64)
        data = loading.packed(network, ImageFeatures(model=name), "trained weights", batches)
        if kept is not None:
            kept.write_bytes(data)
    small = copy.deepcopy(task.original)
    facts = loading.unpacked(small, data).facts
    return data, small, quantised(small, facts["activations"])


def resumable(place: fitting.Place, kept: Path | None, phase: str) -> fitting.Place:
    """With a checkpoint beside the file that is to be kept."""
    if kept is None:
        return place
    kept.parent.mkdir(parents=True, exist_ok=True)
    return replace(place, checkpoint=Checkpoint(LocalFileSystem(), str(kept.with_suffix(f".{phase}.pt"))))


def int8_of(network: FeatureNetwork, train: Pictures) -> FeatureNetwork:
    """The network with 8-bit kernels alone."""
    return quantised(network, loading.observe(network, torch.from_numpy(train.pixels[:CALIBRATION]).split(64)))


def tell(name: str, epochs: list[Epoch]) -> None:
    print(f"{name}: epoch {epochs[-1].epoch}, {describe(epochs[-1])}", file=sys.stderr)


def pictures_of(folder: Path, network: FeatureNetwork, limit: int = ALL) -> Pictures:
    return read_folder(str(folder), network.size, network.resize, limit, SEED)[0]


def loading_facts(data: bytes) -> dict[str, Any]:
    return loading.file.read_facts(data)


# --- measuring ------------------------------------------------------------------------------------------------------------------


def accuracies(kernels: str, network: FeatureNetwork, held_out: Pictures, test: Pictures) -> dict[str, float]:
    found = {"held_out": accuracy(network, held_out), "test": accuracy(network, test)}
    return {f"{name}_{kernels}": round(value, 4) for name, value in found.items()}


def accuracy(network: FeatureNetwork, pictures: Pictures) -> float:
    assert pictures.labels is not None
    return float((fitting.outputs(network, pictures).argmax(1).numpy() == pictures.labels).mean())


def chosen_point(rows: list[dict[str, Any]]) -> str:
    """The smallest file that loses at most `MAX_LOSS` of accuracy on the held-out pictures, with either kind of kernels."""
    enough = rows[0]["held_out_float32"] - MAX_LOSS
    good = [row for row in rows[1:] if min(row["held_out_float32"], row["held_out_int8"]) >= enough] or rows[1:2]
    best = max(good, key=lambda row: row["times_smaller"])
    print(f"chosen on the held-out pictures: {best}")
    return str(best["point"])


def mean_average_precision(network: FeatureNetwork, pictures: Pictures) -> float:
    """Of the ranking of all other pictures by their cosine with each picture; those of its class are relevant."""
    assert pictures.labels is not None
    vectors = torch.nn.functional.normalize(fitting.outputs(network, pictures)).numpy()
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    order = np.argsort(-likeness, axis=1)[:, :-1]
    relevant = pictures.labels[order] == pictures.labels[:, None]
    precision = np.cumsum(relevant, axis=1) / np.arange(1, order.shape[1] + 1)
    return round(float(((precision * relevant).sum(1) / relevant.sum(1)).mean()), 4)


def speeds(title: str, forms: dict[str, FeatureNetwork], pixels: np.ndarray, runs: int) -> list[dict[str, Any]]:
    """Pictures a second of each form, with one thread and with two; the forms take turns."""
    batch, rows = torch.from_numpy(pixels), list[dict[str, Any]]({"network": name} for name in forms)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found: dict[str, list[float]] = {name: [] for name in forms}
        for run in range(runs + 1):
            for name, form in forms.items():
                start = time.perf_counter()
                with torch.inference_mode():
                    form(batch)
                if run:  # the first one warms up
                    found[name].append(len(batch) / (time.perf_counter() - start))
        for row in rows:
            ratios = [own / first for own, first in zip(found[row["network"]], found["original"], strict=True)]
            row[f"images_per_s_{threads}"] = round(statistics.median(found[row["network"]]), 1)
            row[f"ratio_{threads}"] = round(statistics.median(ratios), 2)
    show(f"speed of {title}, batches of {len(batch)}, median of {runs}", rows)
    return rows


def layers(title: str, original: FeatureNetwork, data: bytes) -> None:
    network = copy.deepcopy(original)
    found = loading.unpacked(network, data)
    rows = layer_rows(network, found.tensors, found.sizes)
    for row in rows:
        row["kept"] = round(row["kept"], 3)
    show(f"layers of {title}", rows, bytes=len(data), original_bytes=found.facts["original_bytes"])


def facts_of(train: Pictures, held_out: Pictures, test: Pictures) -> dict[str, Any]:
    return {"pictures": f"{len(train)} to learn from, {len(held_out)} held out, {len(test)} test"}


def draw(curves: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]], path: Path) -> None:
    """The accuracy kept on the test pictures, against the bytes saved and against the speed with one thread."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (bytes_axes, speed_axes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for colour, (name, (rows, speed_rows)) in zip(("tab:blue", "tab:orange"), curves.items(), strict=False):
        original = 100 * rows[0]["test_float32"]
        for kernels, style in (("float32", "o-"), ("int8", "s--")):
            points = sorted((row["times_smaller"], 100 * row[f"test_{kernels}"]) for row in rows[1:])
            bytes_axes.plot(*zip(*points, strict=True), style, color=colour, label=f"{name}, {kernels}")
        bytes_axes.axhline(original, color=colour, linewidth=0.8, label=f"{name}, original")
        of_point = {row["point"]: row for row in rows}
        for row in speed_rows:
            point, _, kernels = row["network"].partition(", ")
            accuracy = of_point[point].get(f"test_{kernels or 'float32'}")
            if accuracy is not None:
                marker, label = ("s" if kernels else "o"), f"{name}, {row['network']}"
                fill = "none" if point == "original" else "full"
                speed_axes.plot(row["images_per_s_1"], 100 * accuracy, marker, color=colour, fillstyle=fill, label=label)
    bytes_axes.set_xlabel("times fewer bytes than float32")
    bytes_axes.set_ylabel("accuracy on CIFAR-10's test pictures, %")
    speed_axes.set_xlabel("pictures a second, one thread")
    for axes in (bytes_axes, speed_axes):
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
