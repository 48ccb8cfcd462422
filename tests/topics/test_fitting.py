"""Training z: it learns, any number of workers computes the same losses, and a killed training goes on where it stopped."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from rayrec.topics import fitting
from rayrec.topics.contents import read_labels
from rayrec.topics.fitting import train_representation
from rayrec.topics.mmoe import MMoE
from rayrec.topics.representation import Representation, encode
from rayrec.topics.tag_graph import incidence
from rayrec.training.callbacks import Epoch, Progress, TrainingCallback
from rayrec.training.exchange import SINGLE, Worker
from rayrec.training.trainer import DivergedError, Trainer
from rayrec.workspace.checkpoint import Checkpoint
from tests.fixtures.topics import SMALL, LittleWorld, little_world

CPU = torch.device("cpu")


def z_of(representation: Representation, world: LittleWorld) -> np.ndarray:
    contents = representation.contents(world.catalog, world.vectors, None)
    return encode(representation.encoders, contents, np.arange(world.catalog.num_rows), CPU, 64)


def test_z_tells_the_classes_of_new_videos_apart_better_than_before_training() -> None:
    world, later = little_world(), little_world(80, seed=1)
    quality = {}
    for name, settings in (("untrained", SMALL.model_copy(update={"epochs": 0})), ("trained", SMALL)):
        found = train_representation(world.catalog, world.vectors, None, settings, 0)
        z, new = z_of(found, world), z_of(found, later)
        assert z.shape == (160, 16)
        quality[name] = LogisticRegression(max_iter=1000).fit(z[:40], world.kinds[:40]).score(new, later.kinds)
    assert quality["trained"] >= max(quality["untrained"], 0.85)


@pytest.mark.parametrize("title_encoder", ["bag", "transformer"])
def test_the_same_seed_gives_the_same_z_and_leaves_torchs_own_seed_alone(little: LittleWorld, title_encoder: str) -> None:
    settings = SMALL.model_copy(update={"epochs": 2, "title_encoder": title_encoder})
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first, second = (z_of(train_representation(little.catalog, little.vectors, None, settings, 3), little) for _ in range(2))
    assert torch.equal(torch.rand(1), before)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, z_of(train_representation(little.catalog, little.vectors, None, settings, 4), little))


def test_a_run_that_is_killed_ends_as_if_it_had_not_been(
    little: LittleWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "Trainer", partial(Trainer, checkpoint_s=1e-9))
    settings = SMALL.model_copy(update={"epochs": 6, "batch_size": 12})
    whole = z_of(train_representation(little.catalog, little.vectors, None, settings, 0), little)
    checkpoint, seen = Checkpoint(pafs.LocalFileSystem(), f"{tmp_path}/checkpoint.pt"), []

    def kill(progress: Progress, epochs: list[Epoch]) -> None:
        seen.append((progress.epoch, progress.step))
        if seen[-1] == (4, 14):
            raise KeyboardInterrupt

    callback = TrainingCallback(on_progress=kill)
    with pytest.raises(KeyboardInterrupt):
        train_representation(little.catalog, little.vectors, None, settings, 0, callback=callback, checkpoint=checkpoint)
    state = checkpoint.load()
    assert state is not None
    assert (len(state["epochs"]), state["now"]["step"]) == (3, 10)
    seen.clear()
    callback = TrainingCallback(on_progress=lambda progress, epochs: seen.append((progress.epoch, progress.step)))
    resumed = train_representation(little.catalog, little.vectors, None, settings, 0, callback=callback, checkpoint=checkpoint)
    assert seen == [(4, 14), (5, 10), (5, 14), (6, 10), (6, 14)]
    assert np.array_equal(z_of(resumed, little), whole)


def test_the_losses_of_three_workers_add_up_to_that_of_one(little: LittleWorld) -> None:
    """Also in the last batch, which is incomplete, and with videos that have no class or no tags."""
    catalog = little.catalog.slice(0, 151)
    column = catalog.schema.get_field_index("primary_class")
    classes = [None if row % 5 == 0 else name for row, name in enumerate(catalog["primary_class"].to_pylist())]
    catalog = catalog.set_column(column, "primary_class", pa.array(classes, pa.string()))
    found = Representation.start(catalog, little.vectors, None, SMALL, 0)
    labels = read_labels(catalog, incidence(catalog["tags"], 6)[0])
    contents = found.contents(catalog, little.vectors, None)
    model = MMoE(found.encoders, labels.tasks, SMALL).eval()  # no dropout

    def losses(worker: Worker) -> list[float]:
        trainable = fitting.TrainableMMoE(model, contents, labels, np.arange(151), SMALL, 0, CPU, worker)
        assert trainable.steps(1) == 5
        batches = list(trainable.batches(1, 0))
        assert [examples for _, examples in batches] == [32] * 4 + [23]
        return [0.0 if share is None else float(trainable.losses(share, examples)[0].detach()) for share, examples in batches]

    together = np.sum([losses(Worker(rank, 3)) for rank in range(3)], axis=0)
    np.testing.assert_allclose(together, losses(SINGLE), rtol=1e-5)


def test_a_loss_that_is_no_number_is_refused(little: LittleWorld) -> None:
    with pytest.raises(DivergedError, match=r"lower topics\.learning_rate"):
        train_representation(little.catalog, little.vectors, None, SMALL.model_copy(update={"learning_rate": 1e30}), 0)


def test_pretrained_layers_have_their_own_rate(little: LittleWorld) -> None:
    found = Representation.start(little.catalog, little.vectors, None, SMALL, 0)
    groups = fitting.parameter_groups(MMoE(found.encoders, {"primary_class": 4}, SMALL), SMALL)
    assert [group["lr"] for group in groups] == [SMALL.learning_rate]
