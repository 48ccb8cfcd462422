"""The private/public network: its losses against a slow reference, what training on each term does, and videos that lack a part."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from rayrec.config import ConfigError, PrivatePublic, load
from rayrec.features.private_public.network import Inputs, PrivatePublicNetwork, bounded_difference, counts_of, losses

SETTINGS = PrivatePublic(frames=8, size=32, bands=16, width=8, branch_size=6, similarity=0.3, difference=0.2)
CLASSES = 3


def inputs_of(count: int, settings: PrivatePublic = SETTINGS, seed: int = 0) -> Inputs:
    draw = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, settings.frames, settings.size, settings.size, 3), dtype=torch.uint8, generator=draw)
    sound = torch.randn(count, settings.frames, settings.bands, settings.width, generator=draw).half()
    there = torch.ones(count, dtype=torch.bool)
    return Inputs(frames, sound, there, there.clone())


def some_missing() -> Inputs:
    """Five videos: the second has no sound, the third no picture."""
    inputs = inputs_of(5)
    return Inputs(inputs.frames, inputs.sound, torch.tensor([1, 1, 0, 1, 1]) > 0, torch.tensor([1, 0, 1, 1, 1]) > 0)


# --- the losses -----------------------------------------------------------------------------------------------------------------


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def divergence(private: list[float], public: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(softmax(private), softmax(public), strict=True))


def slow_losses(vectors: Tensor, logits: Tensor, inputs: Inputs, labels: Tensor) -> tuple[float, float, float, float]:
    """The formulas of Hasama & Li in plain Python, one video after the other."""
    classification, similarity, visual, audio = [], [], [], []
    for row, (vis_private, vis_public, aud_private, aud_public) in enumerate(vectors.tolist()):
        if labels[row] >= 0:
            classification.append(-math.log(softmax(logits[row].tolist())[int(labels[row])]))
        if inputs.has_frames[row] and inputs.has_sound[row]:
            similarity.append(sum((a - b) ** 2 for a, b in zip(vis_public, aud_public, strict=True)))
        if inputs.has_frames[row]:
            visual.append(math.tanh(divergence(vis_private, vis_public)))
        if inputs.has_sound[row]:
            audio.append(math.tanh(divergence(aud_private, aud_public)))
    means = [sum(values) / len(values) if values else 0.0 for values in (classification, similarity, visual, audio)]
    difference = means[2] + means[3]
    return means[0] + 0.3 * means[1] - 0.2 * difference, means[0], means[1], difference


@pytest.mark.parametrize("labels", [[0, 2, 1, 1, 0], [0, -1, 1, -1, 2], [-1] * 5])
def test_the_losses_are_those_of_the_slow_reference(labels: list[int]) -> None:
    draw = torch.Generator().manual_seed(3)
    vectors, logits = torch.randn(5, 4, 6, generator=draw), torch.randn(5, CLASSES, generator=draw)
    for inputs in (inputs_of(5), some_missing()):
        found = losses(vectors, logits, inputs, torch.tensor(labels), SETTINGS)
        assert torch.stack(found).tolist() == pytest.approx(slow_losses(vectors, logits, inputs, torch.tensor(labels)), abs=1e-5)


def test_the_losses_of_the_shares_of_a_batch_add_up_to_its_losses() -> None:
    draw = torch.Generator().manual_seed(3)
    vectors, logits = torch.randn(5, 4, 6, generator=draw), torch.randn(5, CLASSES, generator=draw)
    inputs, labels = some_missing(), torch.tensor([0, -1, 1, 1, 2])
    shares = [slice(0, 2), slice(2, 5)]
    parts = [Inputs(*(getattr(inputs, name)[share] for name in vars(inputs))) for share in shares]
    counts = torch.stack([counts_of(part, labels[share]) for part, share in zip(parts, shares, strict=True)]).sum(0)
    found = [
        torch.stack(losses(vectors[share], logits[share], part, labels[share], SETTINGS, counts))
        for part, share in zip(parts, shares, strict=True)
    ]
    torch.testing.assert_close(torch.stack(found).sum(0), torch.stack(losses(vectors, logits, inputs, labels, SETTINGS)))


def test_terms_that_no_video_counts_for_are_zero() -> None:
    nothing = torch.zeros(2, dtype=torch.bool)
    inputs = Inputs(inputs_of(2).frames, inputs_of(2).sound, nothing, nothing)
    vectors = torch.randn(2, 4, 6, requires_grad=True)
    found = losses(vectors, torch.randn(2, CLASSES), inputs, torch.tensor([-1, -1]), SETTINGS)
    assert torch.stack(found).tolist() == [0, 0, 0, 0]
    found.loss.backward()
    assert not vectors.grad.any()  # and not NaN


def test_the_difference_is_bounded_and_stops_pushing_where_the_two_already_differ() -> None:
    public = torch.zeros(3, 6)
    private = torch.zeros(3, 6)
    private[:, 0] = torch.tensor([0.0, 1.0, 60.0])
    private.requires_grad_()
    difference = bounded_difference(private, public)
    assert difference[0] == 0
    assert 0 < difference[1] < difference[2] < 1
    difference.sum().backward()
    assert private.grad[1].abs().max() > 0.1
    assert private.grad[2].abs().max() < 1e-3


def test_publics_are_drawn_together_and_privates_pushed_off() -> None:
    network, inputs = PrivatePublicNetwork(SETTINGS, CLASSES, seed=1), inputs_of(6)
    unknown = torch.full((6,), -1)

    def after(similarity: float, difference: float) -> tuple[float, float]:
        """The similarity and the difference after some steps on these two terms alone."""
        settings = SETTINGS.model_copy(update={"similarity": similarity, "difference": difference})
        taught = PrivatePublicNetwork(SETTINGS, CLASSES, seed=1)
        optimizer = torch.optim.SGD(taught.parameters(), lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            losses(*taught(inputs), inputs, unknown, settings).loss.backward()
            optimizer.step()
        _, _, similar, different = torch.stack(losses(*taught(inputs), inputs, unknown, settings)).tolist()
        return similar, different

    _, _, similar, different = torch.stack(losses(*network(inputs), inputs, unknown, SETTINGS)).tolist()
    assert after(similarity=0.3, difference=0)[0] < 0.5 * similar
    assert after(similarity=0, difference=1)[1] > 1.5 * different


# --- the network ----------------------------------------------------------------------------------------------------------------


def test_shapes_and_the_same_network_from_the_same_seed() -> None:
    random_state = torch.random.get_rng_state()
    networks = [PrivatePublicNetwork(SETTINGS, CLASSES, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), random_state)  # the caller's draws are left alone
    (vectors, logits), (again, _), (other, _) = (network(inputs_of(3)) for network in networks)
    assert vectors.shape == (3, 4, 6)
    assert logits.shape == (3, CLASSES)
    assert torch.equal(vectors, again)
    assert not torch.allclose(vectors, other)
    assert all(not torch.allclose(vectors[:, a], vectors[:, b]) for a in range(4) for b in range(a))


def test_a_missing_modality_gives_zeros_and_touches_no_other_video() -> None:
    network = PrivatePublicNetwork(SETTINGS, CLASSES, seed=1)
    whole, parts = network(inputs_of(5))[0], network(some_missing())[0]
    assert not parts[1, 2:].any()
    assert not parts[2, :2].any()
    assert torch.allclose(parts[[0, 3, 4]], whole[[0, 3, 4]], atol=1e-6)
    assert torch.allclose(parts[1, :2], whole[1, :2], atol=1e-6)
    silent = Inputs(*(getattr(inputs_of(2), name) for name in ("frames", "sound", "has_frames")), torch.zeros(2, dtype=torch.bool))
    vectors, logits = network(silent)
    losses(vectors, logits, silent, torch.tensor([0, 1]), SETTINGS).loss.backward()
    assert all(weight.grad is None for weight in network.audio.parameters())
    assert all(weight.grad.isfinite().all() for weight in network.visual.parameters())


def test_loudness_does_not_count_and_silence_is_no_trouble() -> None:
    network = PrivatePublicNetwork(SETTINGS, CLASSES, seed=1).eval()
    inputs = inputs_of(1)
    louder = Inputs(inputs.frames, inputs.sound + 4, inputs.has_frames, inputs.has_sound)
    silent = Inputs(inputs.frames, torch.full_like(inputs.sound, -23), inputs.has_frames, inputs.has_sound)
    assert torch.allclose(network(inputs)[0], network(louder)[0], atol=0.02)  # float16
    assert network(silent)[0].isfinite().all()


def test_s3d_branches_start_from_a_weights_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = torchvision.models.video.s3d()
    torch.save(body.state_dict(), tmp_path / "s3d.pt")
    settings = PrivatePublic(body="s3d", weights=str(tmp_path / "s3d.pt"), frames=8, size=32, bands=32, width=32, branch_size=6)
    network = PrivatePublicNetwork(settings, CLASSES).eval()
    first = "features.0.0.0.weight"
    for pair in (network.visual, network.audio):
        for name in ("private", "public"):
            assert torch.equal(pair[name].body.state_dict()[first], body.state_dict()[first])
    vectors, _ = network(inputs_of(2, settings))
    assert vectors.shape == (2, 4, 6)
    assert vectors.isfinite().all()
    with pytest.raises(ConfigError, match=r"private_public\.weights"):
        PrivatePublicNetwork(settings.model_copy(update={"weights": str(tmp_path / "nowhere.pt")}), CLASSES)


def test_settings_that_do_not_go_together_are_refused() -> None:
    assert load(None).private_public is None
    for wrong in ("{weights: DEFAULT}", "{body: s3d, width: 16}", "{body: i3d}"):
        with pytest.raises(ConfigError, match="private_public"):
            load(None, [f"private_public={wrong}"])
