"""Training z: it learns, it is exact, and a killed run goes on where it stopped."""

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from rayrec.config import ConfigError
from rayrec.topics import fitting
from rayrec.topics.contents import read_labels
from rayrec.topics.fitting import Epoch, fit, train_representation
from rayrec.topics.mmoe import MMoE
from rayrec.topics.representation import Representation, encode
from rayrec.topics.tag_graph import incidence
from rayrec.training.exchange import Worker
from rayrec.workspace.checkpoint import Checkpoint
from tests.fixtures.topics import SMALL, little_world

CPU = torch.device("cpu")


def z_of(representation, world):
    contents = representation.contents(world.catalog, world.vectors, None)
    return encode(representation.encoders, contents, np.arange(world.catalog.num_rows), CPU, 64)


def test_z_tells_the_classes_of_new_videos_apart_better_than_before_training():
    world, later = little_world(), little_world(80, seed=1)
    quality = {}
    for name, settings in (("untrained", SMALL.model_copy(update={"epochs": 0})), ("trained", SMALL)):
        found = train_representation(world.catalog, world.vectors, None, settings, 0)
        z, new = z_of(found, world), z_of(found, later)
        assert z.shape == (160, 16)
        quality[name] = LogisticRegression(max_iter=1000).fit(z[:40], world.kinds[:40]).score(new, later.kinds)
    assert quality["trained"] >= max(quality["untrained"], 0.85)


@pytest.mark.parametrize("title_encoder", ["bag", "transformer"])
def test_the_same_seed_gives_the_same_z_and_leaves_torchs_own_seed_alone(little, title_encoder):
    settings = SMALL.model_copy(update={"epochs": 2, "title_encoder": title_encoder})
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first, second = (z_of(train_representation(little.catalog, little.vectors, None, settings, 3), little) for _ in range(2))
    assert torch.equal(torch.rand(1), before)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, z_of(train_representation(little.catalog, little.vectors, None, settings, 4), little))


def test_a_run_that_is_killed_ends_as_if_it_had_not_been(little, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_S", 0.0)
    settings = SMALL.model_copy(update={"epochs": 6})
    whole = z_of(train_representation(little.catalog, little.vectors, None, settings, 0), little)
    checkpoint, seen = Checkpoint(pafs.LocalFileSystem(), f"{tmp_path}/checkpoint.pt"), []

    def killed_in_the_fourth(epoch: Epoch) -> None:
        seen.append(epoch.epoch)
        if epoch.epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_representation(little.catalog, little.vectors, None, settings, 0, CPU, killed_in_the_fourth, checkpoint)
    resumed = train_representation(
        little.catalog, little.vectors, None, settings, 0, CPU, lambda epoch: seen.append(epoch.epoch), checkpoint
    )
    assert seen == [1, 2, 3, 4, 4, 5, 6]
    assert np.array_equal(z_of(resumed, little), whole)


def test_two_workers_see_every_video_once_an_epoch(little, monkeypatch):
    seen = []
    monkeypatch.setattr(fitting, "_epoch", lambda model, contents, labels, order, *rest: seen.append(order) or 1.0)
    found = Representation.start(little.catalog, little.vectors, None, SMALL, 0)
    labels = read_labels(little.catalog, incidence(little.catalog["tags"], 100)[0])
    for rank in range(2):
        model = MMoE(found.encoders, labels.tasks, SMALL)
        settings = SMALL.model_copy(update={"epochs": 1})
        fit(model, None, labels, np.arange(160), settings, 0, CPU, worker=Worker(rank, 2))
    assert sorted(np.concatenate(seen)) == list(range(160))


def test_a_loss_that_is_no_number_is_refused(little):
    with pytest.raises(ConfigError, match=r"lower topics\.learning_rate"):
        train_representation(little.catalog, little.vectors, None, SMALL.model_copy(update={"learning_rate": 1e30}), 0)


def test_pretrained_layers_have_their_own_rate(little):
    found = Representation.start(little.catalog, little.vectors, None, SMALL, 0)
    groups = fitting._parameter_groups(MMoE(found.encoders, {"primary_class": 4}, SMALL), SMALL)
    assert [group["lr"] for group in groups] == [SMALL.learning_rate]
