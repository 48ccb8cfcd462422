"""MMoE and the texts it reads."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from rayrec.config import Topics
from rayrec.topics.mmoe import Contents, Labels, MMoE, learn_representation, task_loss
from rayrec.topics.text import MOST_TOKENS, hashed_titles, tokens

SETTINGS = Topics(encoder_size=8, expert_size=8, experts=3, epochs=40, learning_rate=1e-2)


def contents_of(titles, cover=None):
    numbers, starts = (torch.from_numpy(part) for part in hashed_titles(titles))
    return Contents(cover, numbers, starts)


def test_any_script_has_tokens_and_no_title_is_too_long():
    assert tokens("Cats 猫") == ["cats", "<ca", "cat", "ats", "ts>", "猫", "<猫>"]
    assert tokens("") == []
    assert len(tokens("🎬مرحبا" * 5000)) <= MOST_TOKENS
    assert tokens("\uff23\uff21\uff34") == tokens("cat")


def test_titles_of_a_batch_are_cut_out_right():
    contents = contents_of(["red cat", None, "a", "blue dog 猫", ""])
    model = MMoE(contents, Labels({}, None), SETTINGS).eval()
    rows = torch.tensor([3, 1, 0, 4, 2])
    together = model.encode(contents, rows)
    for place, row in enumerate(rows.tolist()):
        alone = contents_of([["red cat", None, "a", "blue dog 猫", ""][row]])
        torch.testing.assert_close(together[place], model.encode(alone, torch.tensor([0]))[0])


def test_forward_is_the_gated_mixture():
    contents = contents_of(["one", "two words"], torch.randn(2, 5))
    labels = Labels({"primary_class": torch.tensor([0, 3])}, torch.zeros(2, 6))
    torch.manual_seed(0)
    model = MMoE(contents, labels, SETTINGS).eval()
    rows = torch.arange(2)
    z = model.encode(contents, rows)
    logits = model(contents, rows)
    assert {name: tuple(value.shape) for name, value in logits.items()} == {"primary_class": (2, 4), "tags": (2, 6)}
    for name in logits:
        weights = model.gates[name](z[1]).softmax(-1)
        experts = [torch.relu(model.experts(z[1])[e * 8 : (e + 1) * 8]) for e in range(3)]
        mixed = sum(weight * expert for weight, expert in zip(weights, experts, strict=True))
        torch.testing.assert_close(logits[name][1], model.towers[name](mixed))


def test_a_missing_label_adds_nothing_to_the_loss():
    logits = {"primary_class": torch.tensor([[2.0, 0.0], [0.0, 5.0]])}
    rows = torch.arange(2)
    half = task_loss(logits, Labels({"primary_class": torch.tensor([0, -1])}, None), rows)
    torch.testing.assert_close(half, torch.nn.functional.cross_entropy(logits["primary_class"][:1], torch.tensor([0])))
    assert task_loss(logits, Labels({"primary_class": torch.tensor([-1, -1])}, None), rows).item() == 0


def test_z_shows_the_classes_better_than_before_training():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 200)
    cover = torch.from_numpy(rng.normal(size=(200, 10)).astype(np.float32))
    cover[:, 0] += torch.from_numpy(classes % 2).float() * 2  # the picture tells two groups apart, the words the other two
    titles = [f"{('sea', 'sun')[c // 2]} {rng.choice(['a', 'b', 'c'])}" for c in classes]
    labels = Labels({"primary_class": torch.from_numpy(classes)}, None)
    known = Labels({"primary_class": labels.classes["primary_class"].masked_fill(torch.arange(200) >= 150, -1)}, None)
    quality = {}
    for name, learned in (("untrained", Labels({}, None)), ("trained", known)):
        z = learn_representation(contents_of(titles, cover), learned, SETTINGS, seed=0)
        assert z.shape == (200, 16)
        quality[name] = LogisticRegression(max_iter=1000).fit(z[:150], classes[:150]).score(z[150:], classes[150:])
    assert quality["trained"] >= quality["untrained"]
    assert quality["trained"] > 0.7


def test_the_same_seed_gives_the_same_z_and_leaves_torchs_own_seed_alone():
    contents, labels = contents_of(["a b", "c d", "e"]), Labels({"primary_class": torch.tensor([0, 1, 1])}, None)
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first, second = (learn_representation(contents, labels, SETTINGS, seed=3) for _ in range(2))
    assert torch.equal(torch.rand(1), before)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, learn_representation(contents, labels, SETTINGS, seed=4))


@pytest.mark.parametrize("titles", [None, ["a", "b"]])
def test_a_modality_that_no_video_has_is_left_out(titles):
    contents = Contents(torch.randn(2, 5), None, None) if titles is None else contents_of(titles)
    assert learn_representation(contents, Labels({}, None), SETTINGS, seed=0).shape == (2, 8)
