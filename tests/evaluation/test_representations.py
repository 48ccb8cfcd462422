"""Scores of representations, against loops and scikit-learn."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances

from rayrec import tables
from rayrec.config import Topics
from rayrec.evaluation.representations import compare, distance_ratio, known_classes, lsa, score

SETTINGS = Topics(
    encoder_size=8, expert_size=8, experts=3, epochs=30, learning_rate=1e-2, batch_size=32, walks_per_tag=3, tag_size=8
)


def test_the_distance_ratio_is_that_of_the_means_over_pairs() -> None:
    rng = np.random.default_rng(0)
    vectors, classes = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    distances = pairwise_distances(vectors)
    pairs = [(row, other) for row in range(30) for other in range(30) if row != other]
    inter = np.mean([distances[pair] for pair in pairs if classes[pair[0]] != classes[pair[1]]])
    intra = np.mean([distances[pair] for pair in pairs if classes[pair[0]] == classes[pair[1]]])
    assert distance_ratio(vectors, classes) == pytest.approx(inter / intra)
    assert np.isnan(distance_ratio(vectors[:3], np.arange(3)))


def test_a_perfect_representation_scores_one_and_unlabelled_videos_do_not_count() -> None:
    classes = np.array([0, 1, 2] * 10 + [-1] * 5)
    vectors = np.concatenate([np.eye(3)[classes[:30]], np.zeros((5, 3))]) + 1e-3 * np.random.default_rng(0).normal(size=(35, 3))
    found = score(vectors, classes, 0)
    assert (found.ari, found.nmi) == (1, 1)
    assert found.distance_ratio > 100


def test_the_ratio_is_that_of_ten_clusterings_whatever_the_classes_are() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    classes = np.arange(60) % 4
    runs = [KMeans(4, n_init=4, random_state=7 + run).fit_predict(vectors) for run in range(10)]
    assert score(vectors, classes, 7).distance_ratio == pytest.approx(np.mean([distance_ratio(vectors, run) for run in runs]))
    assert score(vectors, classes[::-1].copy(), 7).distance_ratio == score(vectors, classes, 7).distance_ratio


def test_lsa_puts_titles_of_one_subject_together() -> None:
    titles = ["cat purrs", "cat naps", "dog runs", "dog barks", "cat purrs naps", "dog runs barks", None]
    vectors = lsa(titles, np.arange(7), 0)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert not vectors[6].any()


def test_joining_what_picture_title_and_tags_say_is_best() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, 400)
    cover = rng.normal(size=(400, 6)).astype(np.float32)
    cover[:, 0] += 3 * (kinds % 2)
    ids = [str(row) for row in range(400)]
    catalog = tables.from_columns(
        "catalog",
        {
            "video_id": ids,
            "title": [f"{rng.choice(['a', 'b', 'c'])} {('sea', 'sun')[kind // 2]} {rng.choice(['d', 'e', 'f'])}" for kind in kinds],
            "tags": [[f"tag{kind}", f"tag{kind}{rng.integers(3)}", f"noise{rng.integers(5)}"] for kind in kinds],
            "primary_class": [str(kind) for kind in kinds],
        },
    )
    vectors = tables.from_columns("vectors", {"video_id": ids, "cover": list(cover)})
    found = compare(catalog, vectors, None, {"kinds": kinds}, SETTINGS, 0)
    assert list(found) == ["cover", "title", "MMoE", "tags", "MMoE + tags"]
    nmi = {name: kinds["kinds"].nmi for name, kinds in found.items()}
    assert nmi["MMoE"] > max(nmi["cover"], nmi["title"])
    assert nmi["MMoE + tags"] >= nmi["MMoE"]


def test_the_given_videos_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is right about them alone scores one, and is learned on the others."""
    rng = np.random.default_rng(0)
    kinds, held = rng.integers(0, 3, 60), np.arange(20, 40)
    values = rng.normal(size=(60, 3))
    values[held] = np.eye(3)[kinds[held]]
    learned_on: list[np.ndarray] = []

    def representations(*given: object) -> dict[str, np.ndarray]:
        learned_on.append(np.asarray(given[3]))
        return {"right": values}

    monkeypatch.setattr("rayrec.evaluation.representations.representations", representations)
    catalog = pa.table({"video_id": [str(row) for row in range(60)]})
    assert compare(catalog, None, None, {"kinds": kinds}, SETTINGS, 0, held)["right"]["kinds"].nmi == pytest.approx(1)
    assert compare(catalog, None, None, {"kinds": kinds}, SETTINGS, 0)["right"]["kinds"].nmi < 1
    assert learned_on[0].tolist() == [*range(20), *range(40, 60)]
    assert len(learned_on[1]) == 54


def test_the_kinds_of_classes_of_a_catalog() -> None:
    catalog = tables.from_columns("catalog", {"video_id": ["a", "b", "c"], "primary_class": ["x", None, "y"]})
    truth = tables.from_columns("truth_topics", {"video_id": ["c", "a"], "topic": pa.array([5, 7], pa.int32())})
    found = known_classes(catalog, truth)
    assert list(found) == ["primary class", "true topics"]
    assert found["primary class"].tolist() == [0, -1, 1]
    assert found["true topics"].tolist() == [0, -1, 1]
