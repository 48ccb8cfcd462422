"""The kernels of users follow their formula, computed one number at a time, and are neutral where something is unknown."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import Ranker
from rayrec.data.errors import DataError
from rayrec.data.loading import RankingData
from rayrec.ranking.user_kernels import UserKernels, shifts
from rayrec.tables import MAPS, MAPS_SHAPE
from tests.fixtures.ranking import MAP_SHAPE, joined, prepared, small_maps
from tests.ranking.impressions import requests, softmax, untrained

Map = list[list[float]]
WITHOUT_MAPS = [3, 31, 40]  # items: the third video has none, and the last ten have no vectors at all


@pytest.fixture
def adding(settings: Ranker) -> Ranker:
    return settings.model_copy(update={"user_kernels": True})


def kernels_of(model: torch.nn.Module) -> UserKernels:
    found = model.user_kernels
    assert isinstance(found, UserKernels)
    return found


def convolved(picture: Map, kernel: list[float], width: int) -> Map:
    """The same size, with zeros around."""
    side, before = len(picture), (width - 1) // 2

    def at(row: int, column: int) -> float:
        return picture[row][column] if 0 <= row < side and 0 <= column < side else 0.0

    return [
        [
            sum(kernel[i * width + j] * at(row + i - before, column + j - before) for i in range(width) for j in range(width))
            for column in range(side)
        ]
        for row in range(side)
    ]


def slow_logit(kernels: UserKernels, user_value: int, item: int) -> float:
    """The logit of one user, known by the value of the id, and one video; user 0 is the mean of all others."""
    own = kernels.own.weight.tolist()
    known = own[1:]
    of_user = [sum(column) / len(known) for column in zip(*known, strict=True)] if user_value == 0 else own[user_value]
    numbers = [shared + mine for shared, mine in zip(kernels.all_users.tolist(), of_user, strict=True)]
    side, widths, logit = MAP_SHAPE.side, MAP_SHAPE.kernels, 0.0
    sizes = [width**2 for width in widths]
    for stage, width in enumerate(widths):
        start, behind = sum(sizes[:stage]), sum(sizes) + sum(sizes[:stage])
        interest, attention = numbers[start : start + width**2], numbers[behind : behind + width**2]
        channels = [
            [plane[row * side : (row + 1) * side] for row in range(side)]
            for plane in kernels.maps.first[item].view(MAP_SHAPE.dimensions)[stage].float().tolist()
        ]
        first = [convolved(channel, interest, width) for channel in channels]
        second = [convolved(channel, attention, width) for channel in channels]
        places = [(row, column) for row in range(side) for column in range(side)]
        shares = softmax([sum(channel[row][column] for channel in second) for row, column in places])
        preference = sum(
            share * max(channel[row][column] for channel in first) for share, (row, column) in zip(shares, places, strict=True)
        )
        logit += numbers[2 * sum(sizes) + stage] * preference
    return logit


def test_the_logit_is_that_of_the_formula(data: RankingData, settings: Ranker) -> None:
    model = untrained("user_kernel", data, settings, spread=0.3).model.eval()
    kernels, batch = kernels_of(model), requests(data, settings, 6)
    found = model(batch)
    for b, n in np.ndindex(*batch.candidates.shape):
        value = int(data.users.categorical["user_id"][batch.user[b]])
        expected = slow_logit(kernels, value, int(batch.candidates[b, n])) + model.bias.item()
        assert found[b, n].item() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(model.score(batch), found)  # the kernels count once


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_a_kernel_as_a_matrix_convolves_as_torch_does(width: int) -> None:
    rng = torch.Generator().manual_seed(width)
    picture, kernel = torch.randn(1, 1, 4, 4, generator=rng), torch.randn(1, 1, width, width, generator=rng)
    expected = torch.nn.functional.pad(picture, ((width - 1) // 2, width // 2) * 2)
    matrix = (kernel.flatten() @ shifts(4, width).flatten(1)).view(16, 16)
    torch.testing.assert_close((picture.flatten() @ matrix).view(4, 4), torch.nn.functional.conv2d(expected, kernel)[0, 0])


@pytest.mark.parametrize("name", ["wide_deep", "neumf", "mmie"])
def test_they_are_added_to_the_logits_of_a_model(data: RankingData, adding: Ranker, name: str) -> None:
    model = untrained(name, data, adding, spread=0.2).model.eval()
    batch = requests(data, adding, 30)
    added = kernels_of(model)(batch.user, batch.candidates)
    assert added.std() > 0.01
    torch.testing.assert_close(model.score(batch), model(batch) + added)
    model.losses(batch).mean().backward()
    assert kernels_of(model).own.weight.grad.is_sparse


def test_before_training_they_add_nothing_and_all_users_are_alike(data: RankingData, adding: Ranker) -> None:
    model = untrained("wide_deep", data, adding).model.eval()
    kernels, batch = kernels_of(model), requests(data, adding, 30)
    assert not kernels(batch.user, batch.candidates).any()
    torch.nn.init.ones_(kernels.all_users)
    logits = kernels(batch.user, batch.candidates[:1].expand(5, -1))
    torch.testing.assert_close(logits, logits[:1].expand(5, -1))


def test_a_video_without_maps_gets_nothing(data: RankingData, adding: Ranker) -> None:
    kernels = kernels_of(untrained("wide_deep", data, adding, spread=0.3).model.eval())
    users = torch.arange(5)
    assert not kernels(users, torch.tensor([0, *WITHOUT_MAPS]).expand(5, -1)).any()
    assert kernels(users, torch.tensor([[1, 2, 4, 30]]).expand(5, -1)).all()
    assert [kernels.knows_maps_of(item) for item in (2, *WITHOUT_MAPS)] == [True, False, False, False]


def test_an_unknown_user_has_the_mean_kernels_also_after_more_training(data: RankingData, adding: Ranker) -> None:
    model = untrained("wide_deep", data, adding, spread=0.3).model.eval()
    kernels = kernels_of(model)
    for _ in range(2):
        found = torch.cat(kernels.numbers(torch.tensor([0])), -1)[0]
        torch.testing.assert_close(found, kernels.all_users + kernels.own.weight[1:].mean(0))
        model.train()
        kernels.own.weight.data += 0.1 * torch.randn_like(kernels.own.weight)
        model.eval()
    kept = {name: 2 * value for name, value in model.state_dict().items()}
    model.load_state_dict(kept)
    torch.testing.assert_close(
        torch.cat(kernels.numbers(torch.tensor([0])), -1)[0],
        kept["user_kernels.all_users"] + kept["user_kernels.own.weight"][1:].mean(0),
    )


def test_the_attention_is_a_share_for_each_place(data: RankingData, adding: Ranker) -> None:
    kernels = kernels_of(untrained("wide_deep", data, adding, spread=0.3).model.eval())
    looks = kernels.look(1, 4)
    assert len(looks) == len(MAP_SHAPE.kernels)
    for look in looks:
        assert len(look.attention) == MAP_SHAPE.side**2
        assert sum(look.attention) == pytest.approx(1)
    assert sum(look.logit for look in looks) == pytest.approx(kernels(torch.tensor([1]), torch.tensor([[4]])).item(), abs=1e-5)


def test_they_find_which_part_of_the_picture_a_user_likes(raw: dict[str, pa.Table], settings: Ranker) -> None:
    """Each user likes videos whose maps are bright in the user's own direction of a pattern, which the mean user can't tell."""
    from rayrec.config import Training
    from rayrec.ranking.fitting import train_ranker

    rng = np.random.default_rng(0)
    shape = replace(MAP_SHAPE, channels=1, kernels=(3,))
    stripes = rng.integers(0, 2, 40)  # rows or columns
    lines = np.tile([1.0, -1.0], 2)
    maps = [np.tile(lines, (4, 1)) if each else np.tile(lines[:, None], (1, 4)) for each in stripes]
    columns = {MAPS: pa.array([each.ravel() for each in maps], pa.list_(pa.float32())), MAPS_SHAPE: [shape.to_json()] * 40}
    raw = raw | {"vectors": pa.table({"video_id": raw["catalog"]["video_id"]} | columns)}
    log = raw["interactions"]
    user, item = (np.array([int(each[1:]) for each in log[name].to_pylist()]) for name in ("user_id", "video_id"))
    raw["interactions"] = log.set_column(3, "clicked", pa.array(user % 2 == stripes[item]))
    settings = settings.model_copy(update={"model": "user_kernel", "modalities": [], "id_dropout": 0.0})
    training = Training(epochs=40, patience=40, batch_size=64, learning_rate=0.05, weight_decay=0)
    data = prepared(raw, settings)
    _, epochs = train_ranker(data, settings, training, seed=1)
    assert max(epoch.metrics["validation_auc"] for epoch in epochs) > 0.95


def test_maps_of_mixed_shapes_are_refused(raw: dict[str, pa.Table], adding: Ranker) -> None:
    shapes = raw["vectors"][MAPS_SHAPE].to_pylist()
    mixed = [shapes[0], replace(MAP_SHAPE, side=5).to_json(), *shapes[2:]]
    vectors = raw["vectors"].set_column(
        raw["vectors"].column_names.index(MAPS_SHAPE), MAPS_SHAPE, pa.array(mixed, pa.large_string())
    )
    with pytest.raises(DataError, match=r"the covers' maps have the shapes .* and .*; run `rayrec extract"):
        prepared(raw | {"vectors": vectors}, adding)


def test_maps_of_another_network_are_refused(raw: dict[str, pa.Table], data: RankingData, adding: Ranker) -> None:
    scorer = untrained("wide_deep", data, adding)
    items = joined(raw, adding)
    other = [text and replace(MAP_SHAPE, kernels=(3, 3, 3)).to_json() for text in items[MAPS_SHAPE].to_pylist()]
    items = items.set_column(items.column_names.index(MAPS_SHAPE), MAPS_SHAPE, pa.array(other, pa.large_string()))
    with pytest.raises(DataError, match="the ranker was trained with maps of the shape"):
        scorer.with_items(items)
    wrong = pa.table({"video_id": ["new"], MAPS: pa.array([[1.0, 2.0]], pa.list_(pa.float32()))})
    with pytest.raises(DataError, match="maps of other than 96 numbers"):
        scorer.append_items(wrong)


def test_without_maps_there_is_nothing_to_learn(raw: dict[str, pa.Table], adding: Ranker) -> None:
    nothing = raw["vectors"].drop_columns([MAPS, MAPS_SHAPE])
    empty = pa.table({name: pa.nulls(30, column.type) for name, column in small_maps(30).items()})
    for name in (MAPS, MAPS_SHAPE):
        nothing = nothing.append_column(name, empty[name])
    with pytest.raises(DataError, match="no video has feature maps in `vectors`; set"):
        prepared(raw | {"vectors": nothing}, adding)
