"""The tree of all sections."""

from pathlib import Path

import pytest

from rayrec.config import Config, dump, load

ROOT = Path(__file__).parents[2]


def test_defaults_survive_a_round_trip() -> None:
    assert Config.model_validate(dump(Config())) == Config()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_configs_are_valid(path: Path) -> None:
    assert load(path).workspace
