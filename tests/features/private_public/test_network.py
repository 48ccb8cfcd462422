"""The private/public network: its losses against a slow reference, what training on each term does, and videos that lack a part."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from rayrec.config import ConfigError, PrivatePublic, load
from rayrec.features.private_public.bodies import Trunk, small_body
from rayrec.features.private_public.network import (
    Inputs,
    Outputs,
    PrivatePublicNetwork,
    bounded_difference,
    counts_of,
    losses,
)

SETTINGS = PrivatePublic(frames=8, size=32, bands=16, width=8, branch_size=6, hidden=[7], similarity=0.3, difference=0.2)
SEPARATE = SETTINGS.model_copy(update={"public": "separate"})
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
    """In bits."""
    return sum(p * math.log2(p / q) for p, q in zip(softmax(private), softmax(public), strict=True))


def some_outputs(seed: int = 3) -> Outputs:
    """What a network might say of five videos, with two fully connected layers."""
    draw = torch.Generator().manual_seed(seed)
    vectors, logits = torch.randn(5, 4, 6, generator=draw), torch.randn(5, CLASSES, generator=draw)
    return Outputs(vectors, logits, [torch.randn(5, 2, 7, generator=draw), vectors[:, [1, 3]]])


def slow_losses(outputs: Outputs, inputs: Inputs, labels: Tensor) -> tuple[float, float, float, float]:
    """The formulas of Hasama & Li in plain Python, one video after the other."""
    classification, similarity, visual, audio = [], [], [], []
    for row, (vis_private, vis_public, aud_private, aud_public) in enumerate(outputs.vectors.tolist()):
        if labels[row] >= 0:
            classification.append(-math.log(softmax(outputs.logits[row].tolist())[int(labels[row])]))
        if inputs.has_frames[row] and inputs.has_sound[row]:
            layers = [public[row].tolist() for public in outputs.publics]
            similarity.append(sum((a - b) ** 2 for picture, sound in layers for a, b in zip(picture, sound, strict=True)) / 2)
        if inputs.has_frames[row]:
            visual.append(math.tanh(divergence(vis_private, vis_public)))
        if inputs.has_sound[row]:
            audio.append(math.tanh(divergence(aud_private, aud_public)))
    means = [sum(values) / len(values) if values else 0.0 for values in (classification, similarity, visual, audio)]
    difference = means[2] + means[3]
    return means[0] + 0.3 * means[1] - 0.2 * difference, means[0], means[1], difference


@pytest.mark.parametrize("labels", [[0, 2, 1, 1, 0], [0, -1, 1, -1, 2], [-1] * 5])
def test_the_losses_are_those_of_the_slow_reference(labels: list[int]) -> None:
    outputs = some_outputs()
    for inputs in (inputs_of(5), some_missing()):
        found = losses(outputs, inputs, torch.tensor(labels), SETTINGS)
        assert torch.stack(found).tolist() == pytest.approx(slow_losses(outputs, inputs, torch.tensor(labels)), abs=1e-5)


def test_the_losses_of_the_shares_of_a_batch_add_up_to_its_losses() -> None:
    outputs, inputs, labels = some_outputs(), some_missing(), torch.tensor([0, -1, 1, 1, 2])
    shares = [slice(0, 2), slice(2, 5)]
    parts = [Inputs(*(getattr(inputs, name)[share] for name in vars(inputs))) for share in shares]
    counts = torch.stack([counts_of(part, labels[share]) for part, share in zip(parts, shares, strict=True)]).sum(0)
    found = []
    for share, part in zip(shares, parts, strict=True):
        said = Outputs(outputs.vectors[share], outputs.logits[share], [public[share] for public in outputs.publics])
        found.append(torch.stack(losses(said, part, labels[share], SETTINGS, counts)))
    torch.testing.assert_close(torch.stack(found).sum(0), torch.stack(losses(outputs, inputs, labels, SETTINGS)))


def test_terms_that_no_video_counts_for_are_zero() -> None:
    nothing = torch.zeros(2, dtype=torch.bool)
    inputs = Inputs(inputs_of(2).frames, inputs_of(2).sound, nothing, nothing)
    vectors = torch.randn(2, 4, 6, requires_grad=True)
    outputs = Outputs(vectors, torch.randn(2, CLASSES), [vectors[:, [1, 3]]])
    found = losses(outputs, inputs, torch.tensor([-1, -1]), SETTINGS)
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


@pytest.mark.parametrize("settings", [SETTINGS, SEPARATE], ids=lambda settings: settings.public)
def test_publics_are_drawn_together_and_privates_pushed_off(settings: PrivatePublic) -> None:
    network, inputs = PrivatePublicNetwork(settings, CLASSES, seed=1), inputs_of(6)
    unknown = torch.full((6,), -1)

    def after(similarity: float, difference: float) -> tuple[float, float]:
        """The similarity and the difference after some steps on these two terms alone."""
        weighted = settings.model_copy(update={"similarity": similarity, "difference": difference})
        taught = PrivatePublicNetwork(settings, CLASSES, seed=1)
        optimizer = torch.optim.SGD(taught.parameters(), lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            losses(taught(inputs), inputs, unknown, weighted).loss.backward()
            optimizer.step()
        _, _, similar, different = torch.stack(losses(taught(inputs), inputs, unknown, settings)).tolist()
        return similar, different

    _, _, similar, different = torch.stack(losses(network(inputs), inputs, unknown, settings)).tolist()
    assert after(similarity=0.6, difference=0)[0] < 0.5 * similar
    assert after(similarity=0, difference=1)[1] > 1.5 * different


# --- the network ----------------------------------------------------------------------------------------------------------------


def test_shapes_and_the_same_network_from_the_same_seed() -> None:
    random_state = torch.random.get_rng_state()
    networks = [PrivatePublicNetwork(SETTINGS, CLASSES, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), random_state)  # the caller's draws are left alone
    (vectors, logits, publics), (again, _, _), (other, _, _) = (network(inputs_of(3)) for network in networks)
    assert vectors.shape == (3, 4, 6)
    assert logits.shape == (3, CLASSES)
    assert [public.shape for public in publics] == [(3, 2, 7), (3, 2, 6)]
    assert torch.equal(publics[-1], vectors[:, [1, 3]])
    assert torch.equal(vectors, again)
    assert not torch.allclose(vectors, other)
    assert all(not torch.allclose(vectors[:, a], vectors[:, b]) for a in range(4) for b in range(a))


def test_a_shared_public_network_is_one_network_behind_two_stems() -> None:
    """What is done to its trunk changes both public vectors and neither private one."""
    inputs = inputs_of(3)
    for settings, changed in ((SETTINGS, [1, 3]), (SEPARATE, [1])):
        network = PrivatePublicNetwork(settings, CLASSES, seed=1)
        before = network(inputs).vectors
        with torch.no_grad():
            for weight in network.trunks[2].parameters():
                weight.mul_(1.5)
        after = network(inputs).vectors
        assert [branch for branch in range(4) if not torch.allclose(before[:, branch], after[:, branch])] == changed
    shared, separate = (
        sum(weight.numel() for weight in PrivatePublicNetwork(settings, CLASSES).parameters()) for settings in (SETTINGS, SEPARATE)
    )
    trunk = sum(weight.numel() for weight in Trunk(small_body(3)[1:], 128, [7, 6]).parameters())
    assert separate - shared == trunk


def test_a_missing_modality_gives_zeros_and_touches_no_other_video() -> None:
    network = PrivatePublicNetwork(SETTINGS, CLASSES, seed=1)
    whole, parts = network(inputs_of(5)).vectors, network(some_missing()).vectors
    assert not parts[1, 2:].any()
    assert not parts[2, :2].any()
    assert torch.allclose(parts[[0, 3, 4]], whole[[0, 3, 4]], atol=1e-6)
    assert torch.allclose(parts[1, :2], whole[1, :2], atol=1e-6)
    silent = Inputs(*(getattr(inputs_of(2), name) for name in ("frames", "sound", "has_frames")), torch.zeros(2, dtype=torch.bool))
    losses(network(silent), silent, torch.tensor([0, 1]), SETTINGS).loss.backward()
    heard = [*network.stems[2:].parameters(), *network.trunks[1].parameters()]
    assert all(weight.grad is None for weight in heard)
    seen = [*network.stems[:2].parameters(), *network.trunks[0].parameters(), *network.trunks[2].parameters()]
    assert all(weight.grad.isfinite().all() for weight in seen)


def test_loudness_does_not_count_and_silence_is_no_trouble() -> None:
    network = PrivatePublicNetwork(SETTINGS, CLASSES, seed=1).eval()
    inputs = inputs_of(1)
    louder = Inputs(inputs.frames, inputs.sound + 4, inputs.has_frames, inputs.has_sound)
    silent = Inputs(inputs.frames, torch.full_like(inputs.sound, -23), inputs.has_frames, inputs.has_sound)
    assert torch.allclose(network(inputs).vectors, network(louder).vectors, atol=0.02)  # float16
    assert network(silent).vectors.isfinite().all()


INCEPTION = {"frames": 8, "size": 32, "bands": 32, "width": 32, "branch_size": 6}


@pytest.mark.parametrize("public", ["shared", "separate"])
def test_s3d_branches_start_from_a_weights_file(tmp_path: Path, public: str) -> None:
    torch.manual_seed(0)
    body = torchvision.models.video.s3d()
    torch.save(body.state_dict(), tmp_path / "s3d.pt")
    settings = PrivatePublic(body="s3d", weights=str(tmp_path / "s3d.pt"), public=public, **INCEPTION)
    network = PrivatePublicNetwork(settings, CLASSES).eval()
    found, first = network.state_dict(), body.features[0][0][0].weight
    for name in ("stems.0.0.0.weight", "stems.1.0.0.weight", "stems.2.1.0.0.weight", "stems.3.1.0.0.weight"):
        assert torch.equal(found[name], first)
    for trunk in network.trunks:
        assert torch.equal(trunk.layers[1][0].weight, body.features[2][0].weight)
    vectors = network(inputs_of(2, settings)).vectors
    assert vectors.shape == (2, 4, 6)
    assert vectors.isfinite().all()
    with pytest.raises(ConfigError, match=r"private_public\.weights"):
        PrivatePublicNetwork(settings.model_copy(update={"weights": str(tmp_path / "nowhere.pt")}), CLASSES)


def test_i3d_has_the_layers_of_the_paper() -> None:
    """Its convolutions are cubes, and it has as many weights as in Carreira & Zisserman's table: 12 million."""
    settings = PrivatePublic(body="i3d", **INCEPTION)
    network = PrivatePublicNetwork(settings, CLASSES).eval()
    layers = [*network.stems[0].modules(), *network.trunks[0].layers.modules()]
    kernels = {layer.kernel_size for layer in layers if isinstance(layer, torch.nn.Conv3d)}
    assert kernels == {(7, 7, 7), (3, 3, 3), (1, 1, 1)}
    parts = (network.stems[0], network.trunks[0].layers)
    assert sum(weight.numel() for part in parts for weight in part.parameters()) == pytest.approx(12e6, rel=0.05)
    assert network(inputs_of(2, settings)).vectors.shape == (2, 4, 6)


def test_modalities_have_batch_norms_of_their_own_in_a_shared_trunk() -> None:
    network = PrivatePublicNetwork(PrivatePublic(body="s3d", **INCEPTION), CLASSES).train()
    before = network.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    seen = inputs_of(2, PrivatePublic(body="s3d", **INCEPTION))
    network(Inputs(seen.frames, seen.sound, seen.has_frames, ~seen.has_sound))
    moved = {
        name for name, value in network.state_dict().items() if name.endswith("running_mean") and not value.equal(before[name])
    }
    assert any(name.startswith("trunks.2.") and ".0.running" in name for name in moved)
    assert not any(name.startswith("trunks.2.") and ".1.running" in name for name in moved)


def test_settings_that_do_not_go_together_are_refused() -> None:
    assert load(None).private_public is None
    for wrong in ("{weights: DEFAULT}", "{body: s3d, width: 16}", "{body: i3d}", "{body: i3d, weights: a.pt, width: 32}"):
        with pytest.raises(ConfigError, match="private_public"):
            load(None, [f"private_public={wrong}"])
