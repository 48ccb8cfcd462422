"""How well features of sound tell ESC-10's ten kinds of sounds apart: YAMNet beside pyAudioAnalysis' short-term features.

    python benchmarks/sounds.py [--esc10 ARCHIVE] [--yamnet FILE.tflite]

Five folds, as the names of the files give them: four are learned, the fifth is told apart, each in turn. A forest has 500 trees; a
logistic regression reads standardised numbers, with C = .1. The milliseconds are those of a clip of 5 s with one thread, without
decoding.
"""

import argparse
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from figures import show
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rayrec.config import AudioFeatures, Features
from rayrec.features.audio import audio_features
from rayrec.features.media.decode import decode
from rayrec.features.yamnet.conversion import converted
from rayrec.features.yamnet.network import sound_features, yamnet
from rayrec.features.yamnet.spectrogram import patches, spectrogram

DATA = Path(__file__).parents[2] / "shared" / "data"
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "forest": lambda: RandomForestClassifier(500, random_state=0, n_jobs=1),
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000)),
}


def vectors(clips: list[Path], settings: AudioFeatures) -> tuple[np.ndarray, float]:
    """The features of each clip, and the milliseconds that one takes."""
    network = yamnet(settings) if settings.model == "yamnet" else None
    found, seconds = list[np.ndarray | None](), 0.0
    for clip in clips:
        waveform = decode(str(clip), Features(image=None, motion=None, audio=settings)).waveform
        assert waveform is not None
        begun = time.perf_counter()
        if network is None:
            found.append(audio_features(waveform, settings))
        else:
            heard = spectrogram(waveform)
            found += sound_features(network, [None if heard is None else patches(heard)])
        seconds += time.perf_counter() - begun
    return np.stack([vector for vector in found if vector is not None]), 1e3 * seconds / len(clips)


def accuracy(make: Callable[[], Any], x: np.ndarray, kinds: np.ndarray, folds: np.ndarray) -> float:
    """The mean over the folds."""
    right = []
    for fold in np.unique(folds):
        learned, asked = folds != fold, folds == fold
        right.append(make().fit(x[learned], kinds[learned]).score(x[asked], kinds[asked]))
    return float(np.mean(right))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--esc10", type=Path, default=DATA / "esc10" / "esc10_ogg.tar", help="the archive of 400 .ogg files")
    parser.add_argument("--yamnet", type=Path, default=DATA / "weights" / "yamnet_spectra_in.tflite")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(given.esc10) as archive:
            archive.extractall(folder, filter="data")
        clips = sorted(Path(folder).rglob("*.ogg"))
        kinds, folds = np.array([clip.parent.name for clip in clips]), np.array([clip.name[0] for clip in clips])
        weights = f"{folder}/yamnet.safetensors"
        safetensors.numpy.save_file(converted(given.yamnet.read_bytes()), weights)
        rows = []
        for name, settings in {
            "pyAudioAnalysis, mean": AudioFeatures(),
            "pyAudioAnalysis, mean and deviation": AudioFeatures(statistics="mean_std"),
            "yamnet, scores": AudioFeatures(model="yamnet", weights=weights),
            "yamnet, embedding": AudioFeatures(model="yamnet", weights=weights, output="embedding"),
        }.items():
            x, milliseconds = vectors(clips, settings)
            found = {kind: f"{accuracy(make, x, kinds, folds):.4f}" for kind, make in CLASSIFIERS.items()}
            rows.append({"features": name, "numbers": x.shape[1], **found, "ms": round(milliseconds, 1)})
        show("ESC-10, accuracy over five folds", rows, clips=len(clips))


if __name__ == "__main__":
    main()
