"""How well ratings of tracks are predicted, as ratings get fewer, for new users and tracks, and from sounds alone.

    PYTHONPATH=. python benchmarks/music.py sparse cold sounds

`sparse`: MovieLens 100K with films for tracks, of which 20, 40, 60 and 80 % of the ratings are for training, drawn at random by
seed, and the others for the test, beside PMF, ConvMF and CDL of cornac (in an environment of their own, made once, with uv) with
the same ratings. `cold`: a fifth of the users, or of the films, has no rating in training. `sounds`: users whose taste is by the
class of a sound rate the 400 clips of ESC-10; the fifth fold is unheard in training. `choose` tries settings: of 80 and of 20 % of
the ratings, a tenth is what they are measured on, and so is the fourth fold of the sounds; no test is looked at.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from figures import show
from peers.environments import ENVIRONMENTS, Peer, environment

from rayrec.collaborative.model import Fitting
from rayrec.collaborative.ratings import Ratings
from rayrec.config import Config, Music
from rayrec.features.yamnet.spectrogram import BANDS, PATCH
from rayrec.music.data import MusicData, read_music_data, sound_patches
from rayrec.music.pmf import Vectors, fit, split
from rayrec.music.sounds import SoundSettings, sound_rows
from rayrec.stages.pipeline import load_stage, run_stages
from rayrec.tables import TEXT
from rayrec.workspace.versions import Workspace

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
CORNAC = Peer("cornac_ratings.py", "cornac==3.0.1", ("tensorflow-cpu==2.21.0", "scipy", "tqdm", "powerlaw"))
SHARES = (0.2, 0.4, 0.6, 0.8)
VARIANTS = {
    "pmf alone": {"users": "none", "tracks": "none"},
    "pmf, sdae": {"users": "sdae", "tracks": "none"},
    "pmf, words": {"users": "none", "tracks": "words"},
    "pmf, sdae and words": {"users": "sdae", "tracks": "words"},
}
FILMS: dict[str, Any] = {}  # the default settings, which `choose` found
SOUNDS: dict[str, Any] = {
    "users": "none",
    "sound": {"channels": [8, 16, 32]},
    "size": 10,
    "batch_size": 256,
    "learning_rate": 3e-3,
    "epochs": 400,
    "patience": 80,
    "user_penalty": 1,
    "track_penalty": 3,
    "weight_decay": 1e-3,
}
CONVMF = {
    "n_epochs": 8,
    "cnn_epochs": 1,
    "emb_dim": 50,
    "num_filters": 50,
    "filter_sizes": [1, 2, 3],
    "lambda_u": 10,
    "lambda_v": 10,
}
PEERS: dict[str, dict[str, Any]] = {"PMF": {}, "ConvMF": CONVMF, "CDL": {"max_iter": 50, "b": 0}}
SLOW = ("ConvMF", "CDL")  # learn with the first seed alone
LISTENERS, RATED, UNHEARD = 300, 20, 10  # people of the synthetic set, and how many heard and unheard clips each of them rates
PATCHES = 5  # of a clip
NOISE = 0.5  # deviation of a rating from a listener's taste
Clips = tuple[list[str], np.ndarray, np.ndarray, np.ndarray]  # what `clips` returns


def music(**options: Any) -> Music:
    return Music.model_validate({"data": {"kind": "files", "tracks": "-", "ratings": "-", "rating_range": [1, 5]}} | options)


def films(folder: Path, place: Path) -> MusicData:
    """MovieLens 100K as the stage `music` reads it."""
    data = {"kind": "movielens", "path": str(folder)}
    config = Config.model_validate({"workspace": str(place), "dataset": data, "music": {"data": data}})
    run_stages([load_stage("ingest")], config)
    assert config.music is not None
    return read_music_data(Workspace(config.workspace), config.music)


def errors(predicted: np.ndarray, ratings: Ratings) -> dict[str, float]:
    error = predicted - ratings.rating
    return {"RMSE": float(np.sqrt((error**2).mean())), "MAE": float(np.abs(error).mean())}


def learned(data: MusicData, train: Ratings, seed: int, **options: Any) -> tuple[Vectors, dict[str, float]]:
    """The vectors, and the seconds and epochs of the training and its lowest error on validation."""
    begun = time.monotonic()
    vectors, epochs = fit(replace(data, ratings=train), music(**options), Fitting(seed))
    best = min(epoch.metrics["validation_rmse"] for epoch in epochs)
    return vectors, {"seconds": time.monotonic() - begun, "epochs": len(epochs), "validation RMSE": best}


def cornac(python: Path, model: str, data: MusicData, train: Ratings, test: Ratings, seed: int, **options: Any) -> dict[str, Any]:
    """The errors of one of cornac's models, which reads the same words."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "ratings.npz"
        parts = {"train": train, "test": test}
        columns = {f"{name}.{key}": getattr(part, key) for name, part in parts.items() for key in ("user", "item", "rating")}
        np.savez(stored, words=data.words_TL, **columns)
        variables = {
            "OMP_NUM_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        command = [str(python), str(ROOT / "benchmarks" / "peers" / CORNAC.script), str(stored)]
        done = subprocess.run(
            [*command, json.dumps(options | {"model": model, "seed": seed})],
            env=os.environ | variables,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"cornac's {model} failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1]) | errors(np.load(stored.with_name("predicted.npy")), test)


def means(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each number over the seeds, and the deviation of the RMSE."""
    found = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
    spread = statistics.stdev(run["RMSE"] for run in runs) if len(runs) > 1 else 0.0
    return {"RMSE": found.pop("RMSE"), "+-": spread, **found}


def sparse(data: MusicData, seeds: list[int], shares: list[float], python: Path | None) -> None:
    for share in shares:
        runs: dict[str, list[dict[str, Any]]] = {}
        for seed in seeds:
            train, test = split(data.ratings, 1 - share, seed)
            mean = np.full(len(test), train.rating.mean())
            runs.setdefault("the mean", []).append(errors(mean, test) | {"seconds": 0.0})
            for name, options in VARIANTS.items():
                vectors, facts = learned(data, train, seed, **FILMS | options)
                found = errors(vectors.predict(test.user, test.item), test)
                runs.setdefault(name, []).append(found | {"seconds": facts["seconds"]})
            for model, options in PEERS.items() if python else ():
                if model in SLOW and seed != seeds[0]:
                    continue
                found = cornac(python, model, data, train, test, seed, **options)
                runs.setdefault(f"cornac's {model}", []).append({name: found[name] for name in ("RMSE", "MAE", "seconds")})
        rows = [{"model": name, "seeds": len(found), **means(found)} for name, found in runs.items()]
        show(f"Ratings of MovieLens 100K, {share:.0%} for training", rows, seeds=seeds)


def cold(data: MusicData, seeds: list[int]) -> None:
    sides = (("user", len(data.users), "pmf, sdae"), ("item", len(data.tracks), "pmf, words"))
    for side, count, content in sides:
        runs: dict[str, list[dict[str, Any]]] = {}
        for seed in seeds:
            new = np.random.default_rng(seed).permutation(count)[: count // 5] + 1
            is_new = np.isin(getattr(data.ratings, side), new)
            train, test = (data.ratings.take(np.flatnonzero(rows)) for rows in (~is_new, is_new))
            runs.setdefault("the mean", []).append(errors(np.full(len(test), train.rating.mean()), test))
            for name in ("pmf alone", content):
                vectors, _ = learned(data, train, seed, **FILMS | VARIANTS[name])
                runs.setdefault(name, []).append(errors(vectors.predict(test.user, test.item), test))
        rows = [{"model": name, **means(found)} for name, found in runs.items()]
        show(f"Ratings of new {'users' if side == 'user' else 'films'}, a fifth of MovieLens 100K", rows, seeds=seeds)


def clips(archive: Path, place: Path) -> Clips:
    """The class and the fold of each clip, its patches, and their number, the latter two from number 1 on."""
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data")
    paths = sorted(place.rglob("*.ogg"))
    names = pa.array([path.stem for path in paths], TEXT)
    uris = pa.array(list(map(str, paths)), TEXT)
    decoded = sound_rows(
        pa.table({"video_id": names, "uri": uris, "title": names, "file_version": names}), SoundSettings(None, PATCHES)
    )
    sounds = pa.table({"track_id": decoded["video_id"], "patches": decoded["patches"]})
    folds = np.array([int(path.stem[0]) for path in paths])
    return [path.parent.name for path in paths], folds, *sound_patches(sounds, names)


def listened(found: Clips, unheard: int, seed: int) -> tuple[MusicData, np.ndarray, Ratings, np.ndarray]:
    """The data with ratings of heard clips, ratings of the fold that is unheard, and the tastes that each are drawn from."""
    classes, folds, patches_TP, count_T = found
    random = np.random.default_rng(seed)
    kinds = np.unique(classes, return_inverse=True)[1]
    taste = random.normal(0, 1, (LISTENERS, 10))

    def rated(tracks: np.ndarray, each: int) -> tuple[Ratings, np.ndarray]:
        user = np.repeat(np.arange(LISTENERS), each)
        track = np.concatenate([random.choice(tracks, each, replace=False) for _ in range(LISTENERS)])
        truth = 3 + taste[user, kinds[track]]
        points = np.clip(truth + random.normal(0, NOISE, len(user)), 1, 5)
        return Ratings.of(user + 1, track + 1, points), np.clip(truth, 1, 5)

    heard = rated(np.flatnonzero(~np.isin(folds, [unheard, 5])), RATED)
    test = rated(np.flatnonzero(folds == unheard), UNHEARD)
    people, tracks = (pa.array([str(number) for number in range(count)], TEXT) for count in (LISTENERS, len(folds)))
    nothing = np.zeros((LISTENERS + 1, 0), np.float32), np.zeros((len(folds) + 1, 0), np.int64)
    assert patches_TP.shape[2:] == (PATCH, BANDS)
    return MusicData(people, tracks, heard[0], *nothing, patches_TP, count_T), heard[1], *test


def sounds(found: Clips, seeds: list[int], unheard: int = 5, **options: Any) -> None:
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        data, heard_truth, test, truth = listened(found, unheard, seed)
        heard, mean = data.ratings, data.ratings.rating.mean()
        parts = [errors(np.full(len(part), mean), part) for part in (test, heard)]
        runs.setdefault("the mean", []).append(parts[0] | {"RMSE of heard clips": parts[1]["RMSE"], "epochs": 0})
        for name, tracks in (("ids", "none"), ("audio CNN", "sound")):
            vectors, facts = learned(data, heard, seed, **SOUNDS | options, tracks=tracks)
            measured = errors(vectors.predict(test.user, test.item), test)
            measured |= {"RMSE of heard clips": facts["validation RMSE"], "epochs": facts["epochs"]}
            runs.setdefault(name, []).append(measured)
        parts = [errors(truth, test), errors(heard_truth, heard)]
        runs.setdefault("the tastes themselves", []).append(parts[0] | {"RMSE of heard clips": parts[1]["RMSE"], "epochs": 0})
    rows = [{"model": name, **means(each)} for name, each in runs.items()]
    show(f"Ratings of unheard sounds (fold {unheard} of ESC-10) by listeners whose taste is by class", rows, seeds=seeds, **options)


def choose(data: MusicData, python: Path | None, tried: list[dict[str, Any]], peers: dict[str, list[dict[str, Any]]]) -> None:
    """Settings by their error on a tenth of the training ratings."""
    rows: list[dict[str, Any]] = []
    for share in (0.8, 0.2):
        train, _ = split(data.ratings, 1 - share, 0)
        for options in tried:
            _, facts = learned(data, train, 0, **FILMS | options)
            rows.append({"training": share, "model": "pmf", "options": json.dumps(options), **facts})
        learning, validation = split(train, 0.1, 0)
        for model, settings in peers.items() if python else ():
            for options in settings:
                found = cornac(python, model, data, learning, validation, 0, **options)
                facts = {"seconds": found["seconds"], "epochs": 0, "validation RMSE": found["RMSE"]}
                rows.append({"training": share, "model": model, "options": json.dumps(options), **facts})
                print(rows[-1], file=sys.stderr)
    if rows:
        show("Settings by their error on validation", rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=["sparse", "cold", "sounds", "choose"], default=["sparse", "cold", "sounds"])
    parser.add_argument("--movielens", type=Path, default=DATA / "ml-100k", help="a folder with u.data, u.item and u.user")
    parser.add_argument("--esc10", type=Path, default=DATA / "esc10" / "esc10_ogg.tar")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--try", nargs="*", dest="tried", type=json.loads, default=[{}], help="`choose`: options of music, as JSON")
    parser.add_argument("--try-sounds", nargs="*", type=json.loads, default=[], help="`choose`: the same, for the sounds")
    parser.add_argument("--try-peers", type=json.loads, default={}, help="`choose`: lists of options by model, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    needs_peers = not options.without_peers and ("sparse" in options.parts or options.try_peers)
    python = environment(CORNAC, "cornac", options.environments) if needs_peers else None
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if {"sparse", "cold", "choose"} & {*options.parts}:
            data = films(options.movielens, place / "films")
        if "choose" in options.parts:
            choose(data, python, options.tried, options.try_peers)
            for settings in options.try_sounds:
                sounds(clips(options.esc10, place / "sounds"), options.seeds[:1], 4, **settings)
        if "sparse" in options.parts:
            sparse(data, options.seeds, options.shares, python)
        if "cold" in options.parts:
            cold(data, options.seeds)
        if "sounds" in options.parts:
            sounds(clips(options.esc10, place / "sounds"), options.seeds)


if __name__ == "__main__":
    main()
