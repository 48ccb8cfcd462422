"""How well each representation of a video separates the classes: Table I (ARI and NMI) and Figure 3 (distances) of Pu et al.,
"Multimodal Topic Learning for Video Recommendation".

Everything is learned on one part of the catalog and scored on the rest. The single modalities are the inputs of MMoE: the reduced
vectors, and the title as text analysis represents it without any label (an extracted text vector, or else LSA: tf-idf and a
truncated SVD). `MMoE` is z, `tags` is the mean of the vectors of the tags, and `MMoE + tags` is what topics are clustered on.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.preprocessing import normalize

from rayrec.config import Topics
from rayrec.topics import tag_graph
from rayrec.topics.contents import fit_scales, read_vectors
from rayrec.topics.fitting import train_representation
from rayrec.topics.model import TopicModel
from rayrec.topics.representation import NothingToReadError, Representation

HELD_OUT = 0.1
CLUSTERINGS = 10  # K-means runs, over which scores are averaged
LSA_SIZE = 64


@dataclass(frozen=True)
class Score:
    """The score of one representation for one kind of classes, on held-out videos."""

    ari: float
    nmi: float
    distance_ratio: float  # of the clusters, not of the classes


def known_classes(catalog: pa.Table, truth: pa.Table | None) -> dict[str, np.ndarray]:
    """int64 [videos], -1 for none, for each kind of classes that the catalog has, and for the true topics of a synthetic world."""
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


def compare(
    catalog: pa.Table,
    vectors: pa.Table | None,
    features: pa.Table | None,
    classes: dict[str, np.ndarray],
    settings: Topics,
    seed: int,
    held: np.ndarray | None = None,
) -> dict[str, dict[str, Score]]:
    """The scores of each representation for each kind of classes; `classes` are int64 [videos], -1 for none.

    `held` has the rows of the catalog that are held out, a tenth drawn from the seed if it is None.
    """
    if held is None:
        order = np.random.default_rng(seed).permutation(catalog.num_rows)
        held = np.sort(order[: max(2, round(HELD_OUT * catalog.num_rows))])
    fitted = np.setdiff1d(np.arange(catalog.num_rows), held)
    found = representations(catalog, vectors, features, fitted, settings, seed)
    return {
        name: {kind: score(values[held], numbers[held], seed) for kind, numbers in classes.items()}
        for name, values in found.items()
    }


def representations(
    catalog: pa.Table, vectors: pa.Table | None, features: pa.Table | None, fitted: np.ndarray, settings: Topics, seed: int
) -> dict[str, np.ndarray]:
    """Each representation of all videos, learned on the `fitted` videos: float32 [videos, size], L2-normalised."""
    learned_on = catalog.take(pa.array(fitted))
    found = {}
    for name, scale in fit_scales(learned_on, vectors, list(settings.modalities)).items():
        values = read_vectors(catalog, vectors, {name: scale})
        assert values is not None
        found[str(name)] = normalize(values)
    title = read_vectors(catalog, vectors, fit_scales(learned_on, vectors, ["text"]))
    if title is None and catalog["title"].null_count < catalog.num_rows:
        title = lsa(catalog["title"].to_pylist(), fitted, seed)
    if title is not None:
        found["title"] = normalize(title)
    tags, names = tag_graph.incidence(learned_on["tags"], settings.max_tags, settings.min_tag_videos)
    tag_vectors = tag_graph.tag_vectors(tags, names, settings, seed) if names else np.empty((0, settings.tag_size), np.float32)
    representation: Representation | None = None
    try:
        representation = train_representation(learned_on, vectors, features, settings, seed)
    except NothingToReadError:
        return found
    models = {"MMoE": TopicModel(representation, [], tag_vectors[:0])}
    if names:
        models["tags"] = TopicModel(None, names, tag_vectors)
        models["MMoE + tags"] = TopicModel(representation, names, tag_vectors)
    for name, model in models.items():
        model.fit_join(learned_on, vectors, features)
        found[name] = model.join(catalog, vectors, features)[0]
    return found


def lsa(titles: list[str | None], fitted: np.ndarray, seed: int) -> np.ndarray:
    """Latent semantic analysis of the titles, learned on the `fitted` rows: float32 [titles, size]."""
    words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit([titles[row] or "" for row in fitted])
    weights = words.transform([title or "" for title in titles])
    size = min(LSA_SIZE, weights.shape[1] - 1)
    return TruncatedSVD(size, random_state=seed).fit(weights[fitted]).transform(weights).astype(np.float32)


def score(vectors: np.ndarray, classes: np.ndarray, seed: int) -> Score:
    """Compare K-means, with as many clusters as there are classes, with the classes. Videos without a class don't count.

    The ratio of distances is that of the clusters themselves. All figures are means over 10 clusterings, as in the paper.
    """
    vectors, classes = vectors[classes >= 0], classes[classes >= 0]
    count = len(np.unique(classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # several videos may have the same representation
        runs = [KMeans(count, n_init=4, random_state=seed + run).fit_predict(vectors) for run in range(CLUSTERINGS)]
    return Score(
        float(np.mean([adjusted_rand_score(classes, run) for run in runs])),
        float(np.mean([normalized_mutual_info_score(classes, run) for run in runs])),
        float(np.mean([distance_ratio(vectors, run) for run in runs])),
    )


def distance_ratio(vectors: np.ndarray, groups: np.ndarray) -> float:
    """The mean Euclidean distance of videos of different groups, divided by that of videos of the same group.

    It is NaN where no group has two different videos.
    """
    squares = (vectors**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * vectors @ vectors.T, 0))
    same, others = groups[:, None] == groups[None, :], ~np.eye(len(groups), dtype=bool)
    within = distances[same & others]
    return float(distances[~same].mean() / within.mean()) if within.any() else float("nan")
