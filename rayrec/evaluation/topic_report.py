"""Draws the page of a catalog's topics: contact sheets of covers, a map of all videos, and the scores of the representations.

The map follows Figure 4 of Pu et al. ("Multimodal Topic Learning for Video Recommendation"), the bars their Figure 3.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from rayrec.evaluation.plotting import plain
from rayrec.evaluation.representations import Score
from rayrec.tables import TEXT
from rayrec.topics.describing import Description

SHEET_COLUMNS, COVER = 6, 96  # of a contact sheet; pixels
LANDMARKS = 3000  # videos that t-SNE places; the others are put among their nearest landmarks
NAMED = 30  # the largest topics, whose numbers are written on the map
FIGURE_3 = {"cover": "picture", "MMoE": "picture + title", "MMoE + tags": "picture + title + tags"}


def covers_of(features: pa.Table, ids: list[str]) -> list[bytes]:
    """The cover JPEGs of these videos, in their order; videos without one are skipped."""
    rows = pc.index_in(pa.array(ids, TEXT), value_set=features["video_id"].combine_chunks()).drop_null()
    return features["cover_jpeg"].take(rows).drop_null().to_pylist()


def contact_sheet(covers: list[bytes]) -> bytes | None:
    """The covers side by side, as a JPEG; None when there are none."""
    if not covers:
        return None
    rows = -(-len(covers) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * COVER, rows * COVER), "white")
    for index, jpeg in enumerate(covers):
        cover = Image.open(io.BytesIO(jpeg))
        cover.thumbnail((COVER, COVER))
        sheet.paste(cover, (index % SHEET_COLUMNS * COVER, index // SHEET_COLUMNS * COVER))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=80)
    return file.getvalue()


def planar_map(vectors: np.ndarray, seed: int) -> np.ndarray:
    """float32 [videos, 2]: t-SNE of up to `LANDMARKS` videos; each other video is put amid its five nearest landmarks."""
    if len(vectors) < 5:
        return PCA(2).fit_transform(np.pad(vectors, ((0, 0), (0, 2)))) if len(vectors) > 1 else np.zeros((len(vectors), 2))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:LANDMARKS])
    landmarks = vectors[chosen]
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    placed = TSNE(perplexity=perplexity, init="pca", random_state=seed, metric="cosine").fit_transform(landmarks)
    places = np.empty((len(vectors), 2), dtype=np.float32)
    for rows in np.array_split(np.arange(len(vectors)), max(1, len(vectors) // 4096)):
        similarity = vectors[rows] @ landmarks.T
        near = np.argpartition(-similarity, 4, axis=1)[:, :5]
        weights = np.maximum(np.take_along_axis(similarity, near, axis=1), 1e-3)
        places[rows] = (placed[near] * weights[..., None]).sum(axis=1) / weights.sum(axis=1, keepdims=True)
    places[chosen] = placed
    return places


def colours(catalog: pa.Table, topics: pa.Table) -> tuple[np.ndarray, list[str]]:
    """The primary class of each video that has topics, as a number, and the names of the classes.

    A catalog without classes is coloured by the first topic of each video, without names.
    """
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
        axes.legend(handles[: len(names)], [plain(_latin(name)) for name in names], fontsize="x-small", loc="best", markerscale=0.7)
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
    """Figure 3 of Pu et al.: the distance between topics, divided by the distance within them. None without such scores."""
    shown = {label: scores[name] for name, label in FIGURE_3.items() if name in scores}
    if not shown:
        return None
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    kinds = list(next(iter(shown.values())))
    for index, (label, found) in enumerate(shown.items()):
        axes.bar(np.arange(len(kinds)) + 0.25 * (index - 1), [found[kind].distance_ratio for kind in kinds], 0.24, label=label)
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
    """The page as HTML. `sheets` maps topics to files, `pictures` are the PNGs `map`, `histogram` and `ratios`."""
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
    """The name without the letters that the plot's font lacks."""
    return name.encode("latin-1", "replace").decode("latin-1")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    return file.getvalue()
