"""The topics as a page to look at: `rayrec topics report` (SOURCES C.6 and the paper's Figures 3 and 4, Table I).

A folder with `index.html`, a contact sheet of covers for each topic, a map of all videos, and the scores as JSON.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from rayrec.errors import RayrecError
from rayrec.evaluation.representations import Score, compare
from rayrec.stages.topics import settings
from rayrec.topics.describing import Description, describe
from rayrec.workspace.stage import Stage, StageRun

REPORT, SCORES = "index.html", "representations.json"
SHEET_COLUMNS, COVER = 6, 96  # of a contact sheet; pixels
LANDMARKS = 3000  # videos that t-SNE places; the others are put among their nearest ones
NAMED = 30  # largest topics whose numbers stand on the map
FIGURE_3 = {"cover": "picture", "MMoE": "picture + title", "MMoE + tags": "picture + title + tags"}


def report(run: StageRun) -> None:
    """The work of the stage `topic_report`. Raises `RayrecError` when there are no topics to report on."""
    catalog, topics, centres, embeddings = (run.read(name) for name in ("catalog", "topics", "topic_centres", "embeddings"))
    if not topics.num_rows:
        raise RayrecError("topics: the catalog has none, so there is nothing to report; it needs titles, tags or covers")
    features, vectors = run.read_if_there("features"), run.read_if_there("vectors")
    described = describe(catalog, topics, np.stack(centres["centre"].to_numpy()))
    classes = known_classes(catalog, run.read_if_there("truth_topics"))
    pixels = features if run.config.topics.cover_network is not None else None
    scores = compare(catalog, vectors, pixels, classes, run.config.topics, run.config.seed) if classes else {}
    run.write_file(
        SCORES, json.dumps({name: {kind: asdict(one) for kind, one in kinds.items()} for name, kinds in scores.items()}).encode()
    )
    sheets = {}
    if features is not None:
        for one in described:
            if sheet := contact_sheet(covers_of(features, one.typical_videos)):
                sheets[one.topic] = f"topic-{one.topic}.jpg"
                run.write_file(f"sheets/{sheets[one.topic]}", sheet)
    places = planar_map(np.stack(embeddings["vector"].to_numpy()), run.config.seed)
    pictures = {
        "map": draw_map(places, topics, colours(catalog, topics), described),
        "histogram": draw_histogram([len(found) for found in topics["topics"].to_pylist()]),
        "ratios": draw_ratios(scores),
    }
    run.write_file(REPORT, page(catalog, described, scores, sheets, pictures).encode())
    run.count(rows_in=catalog.num_rows, rows_out=topics.num_rows)


def known_classes(catalog: pa.Table, truth: pa.Table | None) -> dict[str, np.ndarray]:
    """int64 [videos], -1 for none, of each kind of classes that the catalog has; and the true topics of a synthetic world."""
    columns = {name: catalog[name] for name in ("primary_class", "secondary_class")}
    if truth is not None:
        at = pc.index_in(catalog["video_id"], value_set=truth["video_id"].combine_chunks())
        columns["true topics"] = truth["topic"].take(at.combine_chunks())
    numbered = {name: column.combine_chunks().dictionary_encode() for name, column in columns.items()}
    return {
        name.replace("_", " "): numbers.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        for name, numbers in numbered.items()
        if len(numbers.dictionary) > 1
    }


def covers_of(features: pa.Table, ids: list[str]) -> list[bytes]:
    rows = pc.index_in(pa.array(ids, pa.string()), value_set=features["video_id"].combine_chunks()).drop_null()
    return features["cover_jpeg"].take(rows).drop_null().to_pylist()


def contact_sheet(covers: list[bytes]) -> bytes | None:
    """The covers side by side, as a JPEG; None when there are none."""
    if not covers:
        return None
    rows = -(-len(covers) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * COVER, rows * COVER), "white")
    for place, jpeg in enumerate(covers):
        cover = Image.open(io.BytesIO(jpeg))
        cover.thumbnail((COVER, COVER))
        sheet.paste(cover, (place % SHEET_COLUMNS * COVER, place // SHEET_COLUMNS * COVER))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=80)
    return file.getvalue()


def planar_map(vectors: np.ndarray, seed: int) -> np.ndarray:
    """float32 [videos, 2]: t-SNE of up to `LANDMARKS` videos; each other one lies amid its five nearest landmarks."""
    if len(vectors) < 5:
        return PCA(2).fit_transform(np.pad(vectors, ((0, 0), (0, 2)))) if len(vectors) > 1 else np.zeros((len(vectors), 2))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:LANDMARKS])
    landmarks = vectors[chosen]
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    placed = TSNE(perplexity=perplexity, init="pca", random_state=seed, metric="cosine").fit_transform(landmarks)
    places = np.empty((len(vectors), 2), dtype=np.float32)
    for rows in np.array_split(np.arange(len(vectors)), max(1, len(vectors) // 4096)):
        likeness = vectors[rows] @ landmarks.T
        near = np.argpartition(-likeness, 4, axis=1)[:, :5]
        weights = np.maximum(np.take_along_axis(likeness, near, axis=1), 1e-3)
        places[rows] = (placed[near] * weights[..., None]).sum(axis=1) / weights.sum(axis=1, keepdims=True)
    places[chosen] = placed
    return places


def colours(catalog: pa.Table, topics: pa.Table) -> tuple[np.ndarray, list[str]]:
    """The primary class of each video that has topics, as a number, and the classes' names; or else its first topic."""
    at = pc.index_in(topics["video_id"], value_set=catalog["video_id"].combine_chunks()).combine_chunks()
    classes = catalog["primary_class"].take(at).combine_chunks().dictionary_encode()
    if len(classes.dictionary):
        return classes.indices.fill_null(-1).to_numpy(zero_copy_only=False), classes.dictionary.to_pylist()
    return np.array([found[0] for found in topics["topics"].to_pylist()]), []


def draw_map(places: np.ndarray, topics: pa.Table, colour: tuple[np.ndarray, list[str]], described: list[Description]) -> bytes:
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    numbers, names = colour
    points = axes.scatter(places[:, 0], places[:, 1], c=numbers, cmap="tab20", s=8, linewidths=0)
    if names:
        handles, _ = points.legend_elements(num=range(len(names)))
        axes.legend(handles[: len(names)], [_latin(name) for name in names], fontsize="x-small", loc="best", markerscale=0.7)
    first = np.array([found[0] for found in topics["topics"].to_pylist()])
    for one in sorted(described, key=lambda one: -one.videos)[:NAMED]:
        if (first == one.topic).any():
            across, up = np.median(places[first == one.topic], axis=0)
            axes.text(across, up, str(one.topic), fontsize=9, fontweight="bold", ha="center")
    axes.set(xticks=[], yticks=[])
    return _png(figure)


def draw_histogram(counts: Sequence[int]) -> bytes:
    figure = Figure(figsize=(4.5, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(*np.unique(counts, return_counts=True))
    axes.set(xlabel="topics of a video", ylabel="videos")
    return _png(figure)


def draw_ratios(scores: dict[str, dict[str, Score]]) -> bytes | None:
    """The paper's Figure 3: distance between classes over distance within them."""
    shown = {label: scores[name] for name, label in FIGURE_3.items() if name in scores}
    if not shown:
        return None
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    kinds = list(next(iter(shown.values())))
    for place, (label, found) in enumerate(shown.items()):
        axes.bar(np.arange(len(kinds)) + 0.25 * (place - 1), [found[kind].distance_ratio for kind in kinds], 0.24, label=label)
    axes.set(xticks=range(len(kinds)), xticklabels=kinds, ylabel="inter / intra distance", ylim=(0.9, None))
    axes.legend(fontsize="x-small")
    return _png(figure)


def page(
    catalog: pa.Table,
    described: list[Description],
    scores: dict[str, dict[str, Score]],
    sheets: dict[int, str],
    pictures: dict[str, bytes | None],
) -> str:
    titles = dict(zip(catalog["video_id"].to_pylist(), catalog["title"].to_pylist(), strict=True))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text())
    return template.render(
        videos=catalog.num_rows,
        topics=described,
        titles=titles,
        scores=scores,
        sheets=sheets,
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items() if data},
    )


def _latin(name: str) -> str:
    """Without the letters that the plot's font lacks."""
    return name.encode("latin-1", "replace").decode("latin-1")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    return file.getvalue()


STAGE = Stage(
    "topic_report",
    report,
    reads=("catalog", "topics", "topic_centres", "embeddings"),
    may_read=("features", "vectors", "truth_topics"),
    settings=settings,
)
