"""The space is learned: modalities meet, classes attract, and any number of workers follows the same gradient."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.retrieval.fitting import TrainableSpace, fit, split
from rayrec.retrieval.inputs import Inputs, inputs_of
from rayrec.retrieval.labels import Labels
from rayrec.retrieval.measures import mean_average_precision
from rayrec.retrieval.space import Space, mean_of, projected
from rayrec.tables import TEXT
from rayrec.training.exchange import Worker
from rayrec.training.trainer import CPU
from tests.fixtures.search import QUICK, SearchWorld, search_world


def inputs(world: SearchWorld) -> Inputs:
    return inputs_of(world.features, QUICK.modalities, world.catalog["title"].to_pylist())


def trainable(world: SearchWorld, worker: Worker, **settings: object) -> TrainableSpace:
    read, wanted = inputs(world), QUICK.model_copy(update=settings)
    torch.manual_seed(0)
    space = Space({name: values.shape[1] for name, values in read.values.items()}, wanted)
    space.fit_scales(read)
    train, held_out = split(read.count, wanted.held_out, 0)
    return TrainableSpace(space, read, Labels.of(world.catalog, 100), train, held_out, wanted, 0, CPU, worker)


def gradients(part: TrainableSpace) -> tuple[list[float], list[torch.Tensor]]:
    """The losses of the first batch, and their gradients."""
    share, examples = next(part.batches(1, 0))
    assert share is not None
    losses = part.losses(share, examples)
    losses[0].backward()
    return [loss.item() for loss in losses], [weights.grad for weights in part.space.parameters() if weights.grad is not None]


def test_the_shares_of_workers_add_up_to_the_loss_of_one() -> None:
    world = search_world(90)
    alone, gradient = gradients(trainable(world, Worker(0, 1)))
    parts = [gradients(trainable(world, Worker(rank, 3))) for rank in range(3)]
    np.testing.assert_allclose(np.sum([losses for losses, _ in parts], axis=0), alone, rtol=1e-5)
    for number, whole in enumerate(gradient):
        torch.testing.assert_close(sum(found[number] for _, found in parts), whole, rtol=1e-4, atol=1e-6)


def test_the_losses_are_those_that_the_papers_define() -> None:
    """InfoNCE and the supervised contrastive loss, written out for every vector that asks."""
    part = trainable(search_world(40), Worker(0, 1), batch_size=20)
    share, examples = next(part.batches(1, 0))
    assert share is not None
    _, own, alike = part.losses(share, examples)
    vectors = {name: found.detach().double().numpy() for name, found in part.space(share.values).items()}
    there = {name: mask.numpy() for name, mask in share.present.items()}
    expected_own = expected_alike = 0.0
    for asking in vectors:
        for answering in vectors:
            for i in np.flatnonzero(there[asking]):
                keys = [j for j in np.flatnonzero(there[answering]) if asking != answering or j != i]
                scores = {j: np.exp(vectors[asking][i] @ vectors[answering][j] / QUICK.temperature) for j in keys}
                if asking != answering and i in scores:
                    expected_own -= np.log(scores[i] / sum(scores.values()))
                right = {j: float(share.alike[i, j]) for j in keys if share.alike[i, j] > 0}
                for j, weight in right.items():
                    expected_alike -= weight / sum(right.values()) * np.log(scores[j] / sum(scores.values()))
    assert own.item() == pytest.approx(expected_own / (20 * 6), rel=1e-4)
    assert alike.item() == pytest.approx(expected_alike / (20 * 9), rel=1e-4)


def test_each_modality_finds_new_videos_of_its_class_by_the_others() -> None:
    world, new = search_world(), search_world(200, seed=9)
    space = fit(inputs(world), Labels.of(world.catalog, 100), QUICK, seed=0)
    vectors = projected(space, inputs(new))
    relevant = new.kinds[:, None] == new.kinds[None]
    for name, asking in vectors.items():
        answers = mean_of(vectors, 200, space.size, without=name)
        asks = inputs(new).present[name]
        assert mean_average_precision(asking[asks] @ answers.T, relevant[asks]) > 0.85, name
    np.testing.assert_allclose(np.linalg.norm(vectors["cover"], axis=1), inputs(new).present["cover"], atol=1e-5)


def test_without_classes_and_tags_a_videos_own_modalities_still_meet() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(400, 4))
    values = {name: (hidden @ rng.normal(size=(4, 10))).astype(np.float32) for name in ("cover", "audio")}
    there = np.ones(400, dtype=bool)
    unlabelled = pa.table({"primary_class": pa.nulls(400, TEXT), "tags": pa.nulls(400, pa.list_(TEXT))})
    read = Inputs(400, values, {"cover": there, "audio": there})
    space = fit(read, Labels.of(unlabelled, 100), QUICK, seed=0)
    _, held_out = split(400, QUICK.held_out, 0)
    vectors = projected(space, read.take(held_out))
    found = (vectors["cover"] @ vectors["audio"].T).argmax(axis=1)
    assert (found == np.arange(len(held_out))).mean() > 0.5  # of 40; by chance 0.025


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (2, 1), (10, 1), (100, 10)])
def test_a_share_is_held_out(count: int, held_out: int) -> None:
    train, rest = split(count, 0.1, 0)
    assert len(rest) == held_out
    assert sorted([*train, *rest]) == list(range(count))
