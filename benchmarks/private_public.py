"""The private/public network with each of its bodies, its public part shared or separate, on real pictures with real sounds.

    python benchmarks/private_public.py [--bodies small s3d i3d] [--publics shared separate] [--seeds 1 2 3]

A clip is a slow pan over pictures of one class of CIFAR-10, with a sound of the class of ESC-10 that stands at the same place in
the alphabet. Sounds of the folds 1 to 3 teach, fold 4 says when to stop, fold 5 is the test; the pictures of `train/` teach, but
for the last fifth, which goes with fold 4, and those of `test/` are for the test. Clips have 8 frames of 32 x 32 and as many
slices of sound of 32 x 32, the least that S3D and I3D can read, because an epoch of these takes 20 seconds of a core even so. The
network of the paper reads 32 frames of 224 x 224.
"""

import argparse
import io
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from figures import show
from PIL import Image

from rayrec.config import AudioFeatures, Features, PrivatePublic
from rayrec.features.media.decode import decode
from rayrec.features.private_public.fitting import ACCURACY, LOSS, PartFiles, evaluate, fit
from rayrec.features.private_public.inputs import INPUTS, sound_slices
from rayrec.features.private_public.network import PrivatePublicNetwork
from rayrec.workspace.files import open_filesystem

DATA = Path(__file__).parents[2] / "shared" / "data"
ROLES = {"train": "123", "held_out": "4", "test": "5"}  # the folds of the sounds
PICTURES, ROOM, PART = 2, 1.25, 40  # pictures of a clip, the side of one beside that of a frame, clips of a part file
SETTINGS = PrivatePublic(frames=8, size=32, bands=32, width=32, branch_size=32, patience=4, batch_size=8)

Pictures = dict[str, list[np.ndarray]]  # the class -> uint8 [32, 32, 3]


def pictures_of(archive: Path) -> dict[str, Pictures]:
    """The pictures of each role, by class."""
    found: dict[str, Pictures] = {"train": {}, "test": {}, "held_out": {}}
    with tarfile.open(archive) as tar:
        for member in sorted((member for member in tar if member.isfile()), key=lambda member: member.name):
            role, kind, _ = member.name.split("/")[-3:]
            file = tar.extractfile(member)
            assert file is not None
            found[role].setdefault(kind, []).append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
    for kind, pictures in found["train"].items():
        kept = len(pictures) * 4 // 5
        found["train"][kind], found["held_out"][kind] = pictures[:kept], pictures[kept:]
    return found


def pan(pictures: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """uint8 [T, size, size, 3]: a window that moves over one picture after the other."""
    side, each = SETTINGS.size, SETTINGS.frames // len(pictures)
    frames = []
    for picture in pictures:
        large = np.asarray(Image.fromarray(picture).resize((round(ROOM * side),) * 2, Image.Resampling.BILINEAR))
        ends = rng.integers(0, len(large) - side + 1, (2, 2))
        for top, left in np.linspace(*ends, each).round().astype(int):
            frames.append(large[top : top + side, left : left + side])
    return np.stack(frames)


def write_clips(folder: Path, sounds: Path, pictures: dict[str, Pictures], repeats: int) -> dict[str, PartFiles]:
    """The part files of each role: every sound `repeats` times, each time with other pictures of its class."""
    hearing, rng = AudioFeatures(), np.random.default_rng(1)
    rows: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
    kinds = zip(sorted(path for path in sounds.iterdir() if path.is_dir()), sorted(pictures["train"]), strict=True)
    for label, (sound_kind, picture_kind) in enumerate(kinds):
        for clip in sorted(sound_kind.glob("*.ogg")):
            role = next(role for role, folds in ROLES.items() if clip.name[0] in folds)
            waveform = decode(str(clip), Features(image=None, motion=None, audio=hearing)).waveform
            heard = None if waveform is None else sound_slices(waveform, hearing.sample_rate, SETTINGS)
            assert heard is not None
            choice = pictures[role][picture_kind]
            for number in range(repeats):
                seen = pan([choice[index] for index in rng.choice(len(choice), PICTURES, replace=False)], rng)
                row = {"video_id": f"{clip.stem}-{number}", "role": role, "label": label}
                rows[role].append(row | {"frames": seen.tobytes(), "sound": heard.tobytes()})
    for role, found in rows.items():
        (folder / role).mkdir()
        order = rng.permutation(len(found))
        for start in range(0, len(order), PART):
            part = [found[index] for index in order[start : start + PART]]
            pq.write_table(pa.Table.from_pylist(part, schema=INPUTS), folder / role / f"part-{start:06d}.parquet")
    return {role: PartFiles.of(*open_filesystem(folder / role)) for role in ROLES}


def measured(parts: dict[str, PartFiles], settings: PrivatePublic, seed: int) -> dict[str, float]:
    """One training: the epoch that the held-out clips chose, and its answers for the test clips."""
    network = PrivatePublicNetwork(settings, 10, seed)
    begun = time.process_time()
    epochs = fit(network, parts["train"], parts["held_out"], settings, seed)
    seconds = (time.process_time() - begun) / len(epochs)
    best = min(epochs, key=lambda epoch: epoch.metrics[LOSS])
    loss, accuracy = evaluate(network, parts["test"], settings)
    terms = {name: best.metrics[name] for name in ("similarity", "difference")}
    facts = {"epoch": best.epoch, "CPU s an epoch": seconds, "million weights": _weights(network) / 1e6}
    return {"accuracy": accuracy, "log loss": loss, "held out": best.metrics[ACCURACY], **terms, **facts}


def _weights(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--esc10", type=Path, default=DATA / "esc10" / "esc10_ogg.tar")
    parser.add_argument("--cifar10", type=Path, default=DATA / "cifar10" / "cifar10_sample.tar")
    parser.add_argument("--bodies", nargs="+", default=["small", "s3d", "i3d"])
    parser.add_argument("--publics", nargs="+", default=["shared", "separate"])
    parser.add_argument("--weights", type=float, nargs="+", default=[SETTINGS.similarity], help="a and b of the two terms")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--repeats", type=int, default=1, help="clips made of each sound")
    parser.add_argument("--epochs", type=int, default=5, help="at most")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(given.esc10) as archive:
            archive.extractall(folder, filter="data")
        parts = write_clips(Path(folder), Path(folder) / "esc10", pictures_of(given.cifar10), given.repeats)
        for body, public, weight in [(b, p, w) for b in given.bodies for p in given.publics for w in given.weights]:
            change = {"body": body, "public": public, "similarity": weight, "difference": weight, "epochs": given.epochs}
            runs = [measured(parts, SETTINGS.model_copy(update=change), seed) for seed in given.seeds]
            means = {name: f"{np.mean([run[name] for run in runs]):.3f}" for name in runs[0]}
            means["accuracy"] += f" ± {np.std([run['accuracy'] for run in runs]):.3f}"
            rows.append({"body": body, "public": public, "a, b": weight, **means})
            print(rows[-1], flush=True)
    show("CIFAR-10 pictures with ESC-10 sounds", rows, seeds=len(given.seeds), clips={r: sum(p.rows) for r, p in parts.items()})


if __name__ == "__main__":
    main()
