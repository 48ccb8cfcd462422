"""How well words, pictures and sounds find videos of their class: the learned space, nearest neighbours and CCA side by side.

    python benchmarks/retrieval.py CONFIG [KEY=VALUE]... --test CONFIG_OF_TEST_VIDEOS [--seeds 3]
    python benchmarks/retrieval.py --data FOLDER --scratch FOLDER [KEY=VALUE]... [--seeds 3]

The first form reads `catalog` and `features` from the workspaces of two configs, whose videos share no picture and no sound. The
second makes the features itself, once, of pictures in FOLDER/cifar10 and sounds in FOLDER/esc10: a video of class n has a picture
of CIFAR-10's class n, a sound of ESC-10's, a title that names one or both, and some tags. Training videos have CIFAR-10's training
pictures and folds 1 to 4 of the sounds, test videos the test pictures and fold 5.

Every test video asks with its title, cover and sound; all other test videos are ranked, but those that have the same picture
or the same sound when that is what asks; those of its class are relevant.
Whatever is chosen (the projections, how a video is represented, the components of CCA) is chosen by mean average precision among
training videos that are held out. A table comes first, and one line of JSON last.
"""

import argparse
import itertools
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from figures import show
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler, normalize

from rayrec import tables
from rayrec.config import AudioFeatures, Config, Features, ImageFeatures, Search, TextFeatures, load
from rayrec.retrieval.fitting import fit, split
from rayrec.retrieval.index import either
from rayrec.retrieval.inputs import Inputs, inputs_of
from rayrec.retrieval.labels import Labels
from rayrec.retrieval.measures import mean_average_precision, recall_at
from rayrec.retrieval.model import SearchModel
from rayrec.retrieval.queries import QueryReader
from rayrec.retrieval.space import mean_of, projected
from rayrec.retrieval.words import Words, weights_of
from rayrec.workspace.versions import Workspace

ASKS = {"text -> video": ("text", ""), "picture -> video": ("cover", ""), "sound -> video": ("audio", "")}
ASKS |= {"text -> untitled video": ("text", "text"), "picture -> sound": ("cover", "only audio")}
TOP = 10
COMPONENTS = (5, 10, 20, 40)
TRIED = {"hidden": (0, 256), "temperature": (0.1, 0.2, 0.4), "alike": (0.0, 1.0, 3.0, 10.0)}
EXPANSIONS = (0.0, 0.25, 0.5, 1.0)
WORDS = ("in the wild", "today", "my best clip", "wait for it", "at home", "part 2", "so close", "you will like this")
FEATURES = Features(
    image=ImageFeatures(model="efficientnet_lite0", output="pooled", size=128),
    motion=None,
    audio=AudioFeatures(),
    text=TextFeatures(model="minilm"),
)


@dataclass(frozen=True)
class Videos:
    inputs: Inputs
    catalog: pa.Table

    def take(self, rows: np.ndarray) -> "Videos":
        return Videos(self.inputs.take(rows), self.catalog.take(pa.array(rows)))

    @property
    def relevant(self) -> np.ndarray:
        """Which videos are of one class."""
        codes = self.catalog["primary_class"].combine_chunks().dictionary_encode().indices.to_numpy()
        return codes[:, None] == codes[None]

    def same(self, asking: str) -> np.ndarray:
        """Which videos have the same picture or sound; of titles only a video's own, since other videos may well have the same."""
        if asking == "text":
            return np.eye(self.inputs.count, dtype=bool)
        codes = np.unique(self.inputs.values[asking], axis=0, return_inverse=True)[1].ravel()
        return codes[:, None] == codes[None]


@dataclass(frozen=True)
class Figures:
    map: float
    recall: float

    @classmethod
    def of(
        cls, queries: np.ndarray, answers: np.ndarray, videos: Videos, asking: str, shares: np.ndarray | None = None
    ) -> "Figures":
        """Of the vectors of the queries [V, S] and of the videos that answer [V, S], and the shares of words of each pair."""
        asks, answered, same = queries.any(axis=1), answers.any(axis=1), videos.same(asking)
        cosines = queries @ answers.T
        scores = np.where(same, -np.inf, cosines if shares is None else either(cosines, shares))[asks][:, answered]
        relevant = (videos.relevant & ~same)[asks][:, answered]
        return cls(mean_average_precision(scores, relevant), recall_at(TOP, scores, relevant))


# --- the three ways -------------------------------------------------------------------------------------------------------------


def by_space(train: Videos, test: Videos, settings: Search, features: Features, seed: int) -> tuple[list[dict[str, Figures]], str]:
    """Ours, with the settings that find held-out training videos best: plain, with expansion, and with words too, as served."""
    labels = Labels.of(train.catalog, settings.max_tags)
    _, held_out = split(train.inputs.count, settings.held_out, seed)
    texts = QueryReader(features, seed, 0).texts(labels.names) if labels.names else None
    best: tuple[float, SearchModel] | None = None
    for values in itertools.product(*TRIED.values()):
        tried = settings.model_copy(update=dict(zip(TRIED, values, strict=True)) | {"expansion": 0.0})
        model = SearchModel(fit(train.inputs, labels, tried, seed), tried, features, seed)
        found = mean_map(model, train.take(held_out))
        print(f"seed {seed}: {dict(zip(TRIED, values, strict=True))}: {found:.4f} on validation", file=sys.stderr)
        if best is None or found > best[0]:
            best = found, model
    assert best is not None
    model, plain = best[1], answers_of(best[1], test)
    if texts is not None:
        model.fit_tags(texts, labels, model.video_vectors(train.inputs))
        tried = [replace(model, settings=model.settings.model_copy(update={"expansion": share})) for share in EXPANSIONS]
        model = max(tried, key=lambda each: mean_map(each, train.take(held_out)))
    model.fit_floors(train.inputs, labels)
    how = ", ".join(f"{name} {getattr(model.settings, name)}" for name in (*TRIED, "expansion"))
    ways = [plain, answers_of(model, test), answers_of(model, test, words=True)]
    return ways, f"{how}; above the floor: {at_floor(model, test)}"


def at_floor(model: SearchModel, videos: Videos) -> str:
    """Of the test videos above the learned floor the share that is relevant, and the share of the relevant ones that is there."""
    found, vectors = [], model.video_vectors(videos.inputs)
    for modality in model.space.sizes:
        others = ~videos.same(modality)
        above = (asked(model, videos.inputs, modality) @ vectors.T > model.floors[modality]) & others
        right = (above & videos.relevant).sum()
        precision, recall = right / max(1, above.sum()), right / (videos.relevant & others).sum()
        found.append(f"{modality} precision {precision:.2f}, recall {recall:.2f}")
    return ", ".join(found)


def mean_map(model: SearchModel, videos: Videos) -> float:
    return float(np.mean([figures.map for figures in answers_of(model, videos).values()]))


def asked(model: SearchModel, inputs: Inputs, modality: str) -> np.ndarray:
    """What each video asks by one modality, as the service reads it, float32 [V, S]; zeros for one that lacks it."""
    found, asks = np.zeros((inputs.count, model.space.size), dtype=np.float32), inputs.present[modality]
    found[asks] = model.query_vectors(modality, inputs.values[modality][asks])[0]
    return found


def answers_of(model: SearchModel, videos: Videos, words: bool = False) -> dict[str, Figures]:
    vectors, count = projected(model.space, videos.inputs), videos.inputs.count
    found = {}
    for name, (asking, without) in ASKS.items():
        if asking not in vectors or ("only" in without and without.split()[1] not in vectors):
            continue
        answers = vectors[without.split()[1]] if "only" in without else mean_of(vectors, count, model.space.size, without)
        shares = shares_of(videos.catalog, without != "text") if words and asking == "text" else None
        found[name] = Figures.of(asked(model, videos.inputs, asking), answers, videos, asking, shares)
    return found


def shares_of(catalog: pa.Table, titled: bool) -> np.ndarray:
    """Of the words of each title the share that each video has in its title, if it is `titled`, and its tags: [V, V]."""
    titles = catalog["title"]
    words = Words(titles if titled else pa.chunked_array([pa.nulls(len(titles), titles.type)]), catalog["tags"])
    shares = (words.shares(weights_of(title or "", [words])) for title in titles.to_pylist())
    return np.stack([np.zeros(len(titles), dtype=np.float32) if each is None else each for each in shares])


def by_neighbours(test: Videos) -> dict[str, Figures]:
    """Cosines of the same modality's features, standardised on the test videos themselves; none finds a sound for a picture."""
    found = {}
    for name, (asking, without) in ASKS.items():
        if not without and asking in test.inputs.values:
            vectors = normalize(StandardScaler().fit_transform(test.inputs.values[asking]))
            vectors *= test.inputs.present[asking][:, None]
            found[name] = Figures.of(vectors, vectors, test, asking)
    return found


def by_cca(train: Videos, test: Videos, seed: int, held_out_share: float) -> dict[str, Figures]:
    """Canonical correlations of the modality that asks and those that answer, each reduced by PCA first."""
    learn, held_out = split(train.inputs.count, held_out_share, seed)
    found = {}
    for name, (asking, without) in ASKS.items():
        others = [without.split()[1]] if "only" in without else [each for each in train.inputs.values if each != asking]
        both = np.all([train.inputs.present[each] for each in (asking, *others)], axis=0)
        rows = learn[both[learn]]
        tried = []
        for components in COMPONENTS:
            sides = [Side.of(train.inputs, [asking], rows, components), Side.of(train.inputs, others, rows, components)]
            size = min(components, *(side.size for side in sides))
            model = CCA(n_components=size, max_iter=2000).fit(*(side(train.inputs)[rows] for side in sides))
            tried.append((cca_figures(model, sides, train.take(held_out), name), model, sides))
        _, model, sides = max(tried, key=lambda each: each[0].map)
        found[name] = cca_figures(model, sides, test, name)
    return found


@dataclass(frozen=True)
class Side:
    """Some modalities side by side, standardised and reduced."""

    names: list[str]
    scales: list[StandardScaler]
    reductions: list[PCA]

    @classmethod
    def of(cls, inputs: Inputs, names: list[str], rows: np.ndarray, components: int) -> "Side":
        scales = [StandardScaler().fit(inputs.values[name][rows]) for name in names]
        scaled = [scale.transform(inputs.values[name][rows]) for name, scale in zip(names, scales, strict=True)]
        reductions = [PCA(min(2 * components, *each.shape), random_state=0).fit(each) for each in scaled]
        return cls(names, scales, reductions)

    @property
    def size(self) -> int:
        return sum(each.n_components_ for each in self.reductions)

    def __call__(self, inputs: Inputs) -> np.ndarray:
        parts = zip(self.names, self.scales, self.reductions, strict=True)
        return np.hstack([reduction.transform(scale.transform(inputs.values[name])) for name, scale, reduction in parts])


def cca_figures(model: CCA, sides: list[Side], videos: Videos, name: str) -> Figures:
    queries, answers = model.transform(*(side(videos.inputs) for side in sides))
    asking = ASKS[name][0]
    return Figures.of(normalize(queries) * videos.inputs.present[asking][:, None], normalize(answers), videos, asking)


# --- videos ---------------------------------------------------------------------------------------------------------------------


def of_workspace(config: Config, modalities: list[str]) -> Videos:
    workspace = Workspace(config.workspace)
    features, catalog = workspace.read("features"), workspace.read("catalog")
    at = pa.compute.index_in(features["video_id"], value_set=catalog["video_id"].combine_chunks())
    catalog = catalog.take(at)
    known = np.flatnonzero(catalog["primary_class"].is_valid().to_numpy())
    titles = catalog["title"].to_pylist() if config.features.text is None else None
    return Videos(inputs_of(features, modalities, titles), catalog).take(known)


def made_of(data: Path, scratch: Path, modalities: list[str]) -> tuple[Videos, Videos]:
    """The training and the test videos of the pictures and sounds in a folder; their features are kept in `scratch`."""
    found = []
    for part, folds in (("train", "1234"), ("test", "5")):
        path = scratch / f"{part}.parquet"
        if not path.exists():
            scratch.mkdir(parents=True, exist_ok=True)
            pq.write_table(extracted(data, part, folds), path)
        table = pq.read_table(path)
        catalog = tables.conform("catalog", table.select(["video_id", "title", "tags", "primary_class"]))
        found.append(Videos(inputs_of(table, modalities, None), catalog))
    return found[0], found[1]


def extracted(data: Path, part: str, folds: str) -> pa.Table:
    from rayrec.features.audio import audio_features
    from rayrec.features.image import image_features, image_network
    from rayrec.features.media.covers import cropped, picture_of
    from rayrec.features.media.decode import decode
    from rayrec.features.rows import Networks, resolved
    from rayrec.features.text import text_features, text_network

    network = image_network(FEATURES.image, 0)
    settings = resolved(FEATURES, Networks(image=network))
    pictures = files_of(data / "cifar10" / "cifar10_sample.tar", part, lambda name: True)
    sounds = files_of(data / "esc10" / "esc10_ogg.tar", "esc10", lambda name: name[0] in folds)
    rng, rows = np.random.default_rng(len(part)), []
    for (seen, shown), (heard, played) in zip(sorted(pictures.items()), sorted(sounds.items()), strict=True):
        covers = [cropped(picture_of(each), settings.image.size, settings.image.resize) for each in shown]
        vectors = [
            each for start in range(0, len(covers), 64) for each in image_features(network, [], covers[start : start + 64])[1]
        ]
        waves = [decode(each, settings.model_copy(update={"image": None})).waveform for each in played]
        voices = [audio_features(wave, settings.audio) for wave in waves]
        words = [seen, heard.split(" - ")[1].lower(), f"{seen} and {heard.split(' - ')[1].lower()}"]
        for number, vector in enumerate(vectors):
            title = f"{rng.choice(words)} {rng.choice(WORDS)}"
            tags = [word for word in sorted({seen, *heard.split(" - ")[1].lower().split()}) if rng.random() < 0.5]
            rows.append((f"{part}-{seen}-{number}", title, tags, seen, vector, voices[rng.integers(len(voices))]))
        print(f"{part}: {seen} with {heard}: {len(covers)} pictures, {len(voices)} sounds", file=sys.stderr)
    ids, titles, tags, classes, vectors, voices = zip(*rows, strict=True)
    texts = text_features(text_network(FEATURES.text), list(titles))
    columns = {"cover": vectors, "audio": voices, "text": texts}
    facts = {"video_id": ids, "title": titles, "tags": list(tags), "primary_class": classes}
    return pa.table(facts | {name: pa.array(list(each), tables.VECTOR) for name, each in columns.items()})


def files_of(archive: Path, folder: str, wanted: Callable[[str], bool]) -> dict[str, list[bytes]]:
    """The contents of the files FOLDER/CLASS/NAME of an archive whose NAME is wanted, by class."""
    found: dict[str, list[bytes]] = {}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda each: each.name):
            parts = member.name.split("/")
            if member.isfile() and len(parts) == 3 and parts[0] == folder and wanted(parts[2]):
                found.setdefault(parts[1], []).append(tar.extractfile(member).read())
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("settings", nargs="*", help="a config, then section.key=value")
    arguments.add_argument("--test", type=Path)
    arguments.add_argument("--data", type=Path)
    arguments.add_argument("--scratch", type=Path)
    arguments.add_argument("--seeds", type=int, default=3)
    given = arguments.parse_args()
    file = given.settings.pop(0) if given.data is None else None
    config = load(file, ["search={}", *given.settings])
    names = [str(name) for name in config.search.modalities]
    if file is None:
        train, test = made_of(given.data, given.scratch, names)
    else:
        train, test = of_workspace(config, names), of_workspace(load(given.test), names)
    runs: dict[str, list[dict[str, Figures]]] = {"nearest neighbours": [by_neighbours(test)], "CCA": []}
    ours = ["one space", "with expansion", "and words"]
    runs |= {way: [] for way in ours}
    chosen = []
    for seed in range(given.seeds):
        runs["CCA"].append(by_cca(train, test, seed, config.search.held_out))
        features = FEATURES if file is None else config.features
        found, how = by_space(train, test, config.search, features, seed)
        for way, figures in zip(ours, found, strict=True):
            runs[way].append(figures)
        chosen.append(how)
    rows, facts = [], {}
    for name in ASKS:
        row: dict[str, object] = {"query -> answer": name}
        for way, each_run in runs.items():
            maps, recalls = ([getattr(run[name], each) for run in each_run if name in run] for each in ("map", "recall"))
            row[way] = f"{np.mean(maps):.3f} ± {np.std(maps):.3f} / {np.mean(recalls):.3f}" if maps else "-"
            facts[f"{way}: {name}"] = {"map": float(np.mean(maps)), f"recall@{TOP}": float(np.mean(recalls))} if maps else None
        rows.append(row)
    chance = float(test.relevant.mean())
    title = f"mAP / Recall@{TOP} of {test.inputs.count} test videos, learned from {train.inputs.count}"
    show(title, rows, chance=round(chance, 3), chosen="; ".join(chosen), figures=facts)


if __name__ == "__main__":
    main()
