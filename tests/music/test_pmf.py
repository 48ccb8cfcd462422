"""The objective and its gradient against loops, workers against one, and what is learned against how the ratings were made."""

import numpy as np
import pytest
import torch

from rayrec.collaborative.model import Fitting
from rayrec.collaborative.ratings import Ratings
from rayrec.config import Music
from rayrec.music.data import MusicData
from rayrec.music.pmf import RMSE, Batch, TrainablePMF, Vectors, fit, split
from rayrec.training.exchange import Worker
from tests.music.rated import settings, world

VARIANTS = [("none", "none"), ("sdae", "none"), ("none", "words"), ("sdae", "words"), ("sdae", "sound")]


def trainable(data: MusicData, wanted: Music, worker: Worker | None = None) -> TrainablePMF:
    train, held_out = split(data.ratings, wanted.held_out, 1)
    return TrainablePMF(data, train, held_out, wanted, Fitting(1, worker=worker or Worker()))


def objective(model: TrainablePMF, data: MusicData) -> float:
    """The formula at the top of `pmf.py`, in loops over the ratings, users and tracks that training has; nothing is hidden."""
    wanted, network = model.settings, model.model
    users, tracks = network.users.weight.detach(), network.tracks.weight.detach()
    total = 0.0
    means = {}
    with torch.no_grad():
        for side, table, prior in (("user", users, network.user_prior), ("track", tracks, network.track_prior)):
            for row in range(len(table)):
                means[side, row] = prior(torch.tensor([row]))[0] if prior is not None else torch.zeros(table.shape[1])
        for user, track, rating in zip(model.train.user, model.train.item, model.train.rating, strict=True):
            u, t = users[user] + means["user", user], tracks[track] + means["track", track]
            total += float((rating - model.mean - u[0] - t[0] - (u[1:] * t[1:]).sum()) ** 2)
        for user in set(model.train.user.tolist()):
            total += wanted.user_penalty * float((users[user] ** 2).sum())
            if network.user_prior is not None:
                z = means["user", user][None]
                total += wanted.sdae.reconstruction * float(network.user_prior.reconstruction(torch.tensor([user]), z))
        for track in set(model.train.item.tolist()):
            total += wanted.track_penalty * float((tracks[track] ** 2).sum())
    return total


def whole_epoch(model: TrainablePMF) -> torch.Tensor:
    """The sum of the losses of all batches, with nothing hidden."""
    found = torch.zeros(())
    for share, examples in model.batches(1, 0):
        assert share is not None
        found = found + model.losses(share, examples)[0] * examples
    return found


def quiet(users: str, tracks: str) -> Music:
    options = {"sdae": {"hidden": [5], "noise": 0}, "words": {"embedding": 4, "filters": 3, "windows": [1, 2], "dropout": 0}}
    return settings(users=users, tracks=tracks, **options, sound={"patches": 1, "channels": [2], "dropout": 0})


def one_patch(data: MusicData) -> MusicData:
    """With one patch for each track, there is none to be drawn."""
    return MusicData(
        data.users,
        data.tracks,
        data.ratings,
        data.facts_UF,
        data.words_TL,
        data.patches_TP[:, :1],
        np.minimum(data.patch_count_T, 1),
    )


@pytest.mark.parametrize(("users", "tracks"), VARIANTS)
def test_an_epoch_has_every_term_of_the_objective_once(users: str, tracks: str) -> None:
    data = one_patch(world(users=8, tracks=6))
    model = trainable(data, quiet(users, tracks))
    assert float(whole_epoch(model).detach()) == pytest.approx(objective(model, data), rel=1e-4)


@pytest.mark.parametrize(("users", "tracks"), VARIANTS)
def test_the_gradient_is_that_of_the_objective(users: str, tracks: str) -> None:
    """Central differences of the loops in float64, at some numbers of each parameter."""
    data = one_patch(world(users=6, tracks=5))
    model = trainable(data, quiet(users, tracks))
    model.model.double()
    model.rating_N = model.rating_N.double()
    whole_epoch(model).backward()
    random, step = np.random.default_rng(0), 1e-6
    for name, parameter in model.model.named_parameters():
        gradient = parameter.grad.to_dense() if parameter.grad is not None else torch.zeros_like(parameter)
        for place in random.choice(parameter.numel(), min(4, parameter.numel()), replace=False):
            flat = parameter.data.view(-1)
            before = float(flat[place])
            values = []
            for value in (before + step, before - step):
                flat[place] = value
                values.append(objective(model, data))
            flat[place] = before
            expected = (values[0] - values[1]) / (2 * step)
            assert float(gradient.reshape(-1)[place]) == pytest.approx(expected, rel=1e-3, abs=1e-3), name


@pytest.mark.parametrize(("users", "tracks"), [("sdae", "words"), ("sdae", "sound")])
def test_the_shares_of_workers_add_up_to_the_batch_with_what_is_hidden_from_it(users: str, tracks: str) -> None:
    data, wanted = world(users=8, tracks=6), settings(users=users, tracks=tracks, batch_size=9)
    alone = trainable(data, wanted)
    together = [trainable(data, wanted, Worker(rank, 3)) for rank in range(3)]
    shares = zip(*(each.batches(2, 1) for each in together), strict=True)
    for (batch, examples), parts in zip(alone.batches(2, 1), shares, strict=True):
        assert batch is not None
        expected = [float(loss.detach()) for loss in alone.losses(batch, examples)]
        found = np.zeros(2)
        for model, (share, count) in zip(together, parts, strict=True):
            assert count == examples
            if share is not None:
                found += [float(loss.detach()) for loss in model.losses(share, examples)]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_batch_that_is_skipped_changes_nothing_of_those_behind_it() -> None:
    model = trainable(world(users=8, tracks=6), settings(batch_size=10))

    def facts(batch: Batch | None) -> list[torch.Tensor]:
        assert batch is not None
        assert batch.users.drawn_RD is not None
        return [batch.users.row_R, batch.users.drawn_RD, batch.tracks.place_B, batch.rating_B]

    everything, rest = list(model.batches(1, 0)), list(model.batches(1, 1))
    assert len(everything) == model.steps(1) == len(rest) + 1
    for (batch, _), (again, _) in zip(everything[1:], rest, strict=True):
        for one, other in zip(facts(batch), facts(again), strict=True):
            torch.testing.assert_close(one, other)


def errors(vectors: Vectors, ratings: Ratings) -> float:
    return float(np.sqrt(((vectors.predict(ratings.user, ratings.item) - ratings.rating) ** 2).mean()))


@pytest.mark.parametrize(("users", "tracks"), VARIANTS)
def test_every_variant_learns_who_likes_what(users: str, tracks: str) -> None:
    data = world()
    vectors, epochs = fit(data, settings(users=users, tracks=tracks, epochs=25, patience=25), Fitting(1))
    _, held_out = split(data.ratings, 0.1, 1)
    spread = float(held_out.rating.std())
    assert errors(vectors, held_out) < 0.85 * spread
    assert min(epoch.metrics[RMSE] for epoch in epochs) == pytest.approx(errors(vectors, held_out), rel=1e-4)
    assert data.ratings.rating.min() == pytest.approx(vectors.low)


@pytest.mark.parametrize("tracks", ["words", "sound"])
def test_content_says_how_new_users_rate_new_tracks_and_ids_do_not(tracks: str) -> None:
    whole = world(users=60, tracks=48)
    new = (whole.ratings.user > 48) | (whole.ratings.item > 36)
    rated, cold = whole.ratings.take(np.flatnonzero(~new)), whole.ratings.take(np.flatnonzero(new))
    data = MusicData(whole.users, whole.tracks, rated, whole.facts_UF, whole.words_TL, whole.patches_TP, whole.patch_count_T)
    how = {"epochs": 20, "patience": 20, "user_penalty": 10, "track_penalty": 10, "sdae": {"hidden": [5], "noise": 0}}
    ids, _ = fit(data, settings(users="none", tracks="none", **how), Fitting(1))
    content, _ = fit(
        data, settings(users="sdae", tracks=tracks, words={"dropout": 0, "windows": [1, 2], "filters": 4}, **how), Fitting(1)
    )
    assert errors(content, cold) < 0.75 * errors(ids, cold)


def test_whom_and_what_nobody_knows_gets_the_mean() -> None:
    whole = world(users=12, tracks=8)
    data = MusicData(
        whole.users,
        whole.tracks,
        whole.ratings.take(np.flatnonzero((whole.ratings.user < 12) & (whole.ratings.item < 8))),
        whole.facts_UF,
        whole.words_TL,
        whole.patches_TP,
        whole.patch_count_T,
    )
    vectors, _ = fit(data, settings(users="none", tracks="none", held_out=0), Fitting(1))
    np.testing.assert_allclose(vectors.user_UV[12], vectors.user_UV[1:12].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(vectors.user_UV[0], vectors.user_UV[1:].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(vectors.track_TV[8], vectors.track_TV[1:8].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_predictions_stay_within_the_range_of_the_config_or_of_the_ratings() -> None:
    rows = np.array([[0, 1], [9, 1], [-9, 1]], np.float32)
    vectors = Vectors(3.0, 1.0, 5.0, rows, np.array([[0, 0], [0.5, 1]], np.float32))
    np.testing.assert_allclose(vectors.predict(np.array([0, 1, 2]), np.array([1, 1, 1])), [4.5, 5, 1])
    data = world(users=8, tracks=6)
    given = settings(data={"kind": "files", "tracks": "t", "ratings": "r", "rating_range": [0, 10]})
    assert [trainable(data, given).low, trainable(data, given).high] == [0, 10]
    assert trainable(data, settings()).high == pytest.approx(data.ratings.rating.max())


def test_nothing_held_out_means_the_last_epoch() -> None:
    _, epochs = fit(world(users=8, tracks=6), settings(held_out=0, epochs=3), Fitting(1))
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert RMSE not in epochs[-1].metrics
