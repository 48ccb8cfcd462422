"""The default world's tables against what they promise; its clips are in test_media.py."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from rayrec.config import WorldData
from rayrec.datasets.synthetic import simulation
from rayrec.datasets.synthetic.exposure import DAY_MS
from rayrec.datasets.synthetic.simulation import START_MS, World
from rayrec.datasets.synthetic.world import make

SMALL = WorldData(videos=12, users=10, topics=4, days=2, requests=40, picture=64)


@pytest.fixture(scope="module")
def world() -> World:
    return make(WorldData(), seed=7)


@pytest.fixture(scope="module")
def log(world: World) -> pd.DataFrame:
    """The impressions with their true probabilities, topics and times of publication."""
    videos = world.catalog.to_pandas().merge(world.truth["truth_topics"].to_pandas())
    log = world.interactions.to_pandas()
    log["probability"] = world.truth["truth_clicks"]["click_probability"].to_numpy()
    log["day"] = (log.shown_at - START_MS) // DAY_MS
    return log.merge(videos, on="video_id", how="left", validate="many_to_one")


def test_the_same_seed_makes_the_same_world() -> None:
    one, two, other = make(SMALL, 1), make(SMALL, 1), make(SMALL, 2)
    for table in ("catalog", "interactions", "users"):
        assert getattr(one, table).equals(getattr(two, table))
        assert not getattr(one, table).equals(getattr(other, table))
    assert one.clips == two.clips != other.clips
    assert all(one.truth[name].equals(two.truth[name]) for name in one.truth)


def test_a_world_too_small_for_its_rules_is_refused() -> None:
    with pytest.raises(ValueError, match="requests=19 are too few for users=10"):
        WorldData(users=10, requests=19)
    tiny = make(WorldData(videos=12, users=1, topics=2, days=2, requests=2), seed=1)
    assert tiny.interactions.num_rows == 20  # the second page repeats videos: there is nothing else left


def test_pages_of_ten_in_time_order(world: World, log: pd.DataFrame) -> None:
    assert len(log) == 72_000
    assert (log.groupby("request_id").size() == 10).all()
    assert not log.duplicated(["request_id", "video_id"]).any()
    assert not log.duplicated(["user_id", "video_id"]).any()
    assert log.shown_at.is_monotonic_increasing
    assert sorted(log.day.unique()) == list(range(7))
    requests = log.drop_duplicates("request_id")
    assert not requests.duplicated(["user_id", "shown_at"]).any()
    pause = requests.groupby("user_id").shown_at.diff().dropna()
    assert ((pause <= 4 * 60_000) | (pause >= 30 * 60_000)).all()  # sessions
    assert (pause <= 4 * 60_000).mean() > 0.4


def test_videos_appear_over_the_days(world: World, log: pd.DataFrame) -> None:
    day = (world.catalog["published_at"].to_numpy() - START_MS) // DAY_MS
    assert (day < 0).mean() > 0.7
    assert day.min() >= -30
    assert (day == 6).sum() >= 20
    assert all((day == number).any() for number in range(6))
    assert (log.published_at <= log.shown_at).all()
    assert (log.published_at >= START_MS + 6 * DAY_MS).sum() > 500  # fresh videos are shown on their day


def test_people_differ_in_how_much_they_come(log: pd.DataFrame) -> None:
    requests = log.groupby("user_id").request_id.nunique()
    assert len(requests) == 600
    assert (requests <= 2).mean() > 0.05
    assert requests.max() > 4 * requests.median()


def test_clicks_follow_the_true_probabilities(log: pd.DataFrame) -> None:
    assert 0.15 < log.clicked.mean() < 0.25
    assert 0 < log.probability.min() < 0.05
    assert 0.9 < log.probability.max() < 1
    bins = log.groupby(pd.cut(log.probability, np.linspace(0, 1, 11)), observed=True)
    error = (bins.clicked.mean() - bins.probability.mean()).abs()
    assert (error < 4 * np.sqrt(0.25 / bins.size())).all()
    assert (log.watch_s[~log.clicked] == 0).all()
    clicked = log[log.clicked]
    assert ((clicked.watch_s > 0) & (clicked.watch_s < clicked.duration_s)).all()
    assert np.corrcoef(clicked.watch_s / clicked.duration_s, clicked.probability)[0, 1] > 0.3


def test_a_few_in_a_hundred_are_liked_of_what_is_clicked(log: pd.DataFrame) -> None:
    assert 0.02 < log.liked.mean() < 0.05
    assert not log.liked[~log.clicked].any()
    clicked = log[log.clicked].assign(quick=lambda rows: rows.probability.rank(pct=True) > 0.5)
    assert clicked[clicked.quick].liked.mean() > 1.3 * clicked[~clicked.quick].liked.mean()  # taste
    by_user = clicked.groupby("user_id").liked.agg(["mean", "size"])
    often = by_user[by_user["size"] >= 20]["mean"]
    assert often.std() > 1.4 * np.sqrt(often.mean() * (1 - often.mean()) / by_user[by_user["size"] >= 20]["size"].mean())


def test_likes_change_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed is what it was before there were likes, and what it is if everybody likes all that they click."""
    clicked = world.interactions["clicked"].to_numpy(zero_copy_only=False)
    assert clicked.sum() == 12_325
    assert hashlib.sha256(np.packbits(clicked).tobytes()).hexdigest()[:16] == "f15a0b071d1b0ab4"
    assert world.interactions["watch_s"].to_numpy().sum() == pytest.approx(40_029.74, abs=0.1)
    monkeypatch.setattr(simulation, "like_probability", lambda affinity, quality, likes: np.ones(np.shape(affinity)))
    other = make(WorldData(), seed=7)
    assert other.interactions["liked"].equals(world.interactions["clicked"])
    assert other.interactions.drop_columns("liked").equals(world.interactions.drop_columns("liked"))
    assert other.catalog.equals(world.catalog)
    assert other.users.equals(world.users)
    same = ["user_id", "video_id", "click_probability", "watch_s"]
    assert other.truth["truth_preferences"].select(same).equals(world.truth["truth_preferences"].select(same))


def test_who_watches_matters_more_than_what_is_famous(log: pd.DataFrame) -> None:
    best = roc_auc_score(log.clicked, log.probability)
    fame = log.groupby("video_id").clicked.transform("mean")  # told from the very clicks that it is to guess: flattered
    assert 0.75 < best < 0.82
    assert 0.55 < roc_auc_score(log.clicked, fame) < best - 0.1


def test_tags_tell_the_topic_better_than_classes_do(log: pd.DataFrame, world: World) -> None:
    videos = world.catalog.to_pandas().merge(world.truth["truth_topics"].to_pandas())
    assert videos.topic.nunique() == 24
    assert videos.groupby("topic").secondary_class.nunique().max() == 1
    by_class = videos.groupby("secondary_class").topic.agg(lambda topics: topics.value_counts().iloc[0]).sum() / len(videos)
    tags = videos[["video_id", "topic", "tags"]].explode("tags")
    counts = tags.groupby(["tags", "topic"]).size().unstack(fill_value=0)
    hits = []
    for topic, own in zip(videos.topic, videos.tags, strict=True):
        others = counts.loc[list(own)].to_numpy(dtype=float, copy=True)
        others[:, counts.columns.get_loc(topic)] -= 1  # the video itself does not vote
        hits.append(
            counts.columns[np.log((others + 0.1) / (others + 0.1).sum(axis=1, keepdims=True)).sum(axis=0).argmax()] == topic
        )
    assert np.mean(hits) > by_class + 0.05
    assert np.mean(hits) < 0.95  # and yet not always
    assert videos.tags.str.len().between(2, 6).all()


def test_some_pictures_and_sounds_mislead(world: World) -> None:
    topics = world.truth["truth_topics"]["topic"].to_numpy()
    for modality in ("seen", "heard"):
        shown = np.array([getattr(clip, modality) for clip in world.clips])
        assert 0.05 < (shown != topics).mean() < 0.2


def test_true_preferences_of_everyone_who_came_on_the_last_day(world: World, log: pd.DataFrame) -> None:
    preferences = world.truth["truth_preferences"].to_pandas()
    last = log[log.day == 6]
    assert set(preferences.user_id) == set(last.user_id)
    assert len(preferences) == last.user_id.nunique() * 480
    merged = last.merge(preferences, on=["user_id", "video_id"])
    position = merged.groupby("request_id").cumcount()
    first = merged[position == 0]
    assert first.click_probability.to_numpy() == pytest.approx(first.probability.to_numpy(), rel=1e-5)
    assert (merged.click_probability[position > 0] > merged.probability[position > 0]).all()
    # What was watched and liked first on pages is what was to be expected there, by up to four deviations of the mean.
    for did, expected in ((first.watch_s_x, first.watch_s_y), (first.liked, first.like_probability)):
        assert abs(did.mean() - expected.mean()) < 4 * (did - expected).std() / np.sqrt(len(first))
    assert (merged.like_probability < merged.click_probability).all()
