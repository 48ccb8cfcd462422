"""A model is found by the name of its file, or by module and class; a mistake in the name is a sentence."""

import sys
from pathlib import Path

import pytest

from rayrec.config import ConfigError, Ranker
from rayrec.ranking import models

OUTSIDE = """
from rayrec.ranking.models.fm import FM


class Mine(FM):
    pass


class Other:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of models."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside_models.py").write_text(OUTSIDE)
    (tmp_path / "needs_more.py").write_text("import module_nobody_has\n")
    return tmp_path


def test_a_model_in_the_working_directory_is_found(folder: Path) -> None:
    assert models.check(Ranker(model="outside_models:Mine")).__name__ == "Mine"
    with pytest.raises(ConfigError, match="model 'outside_models:Mine' has no option 'size'"):
        models.check(Ranker(model="outside_models:Mine", options={"size": 3}))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("wide_dep", "there is no model 'wide_dep'; did you mean 'wide_deep'"),
        ("outside_models:Mein", "module 'outside_models' has no subclass of RankingModel called 'Mein'"),
        ("outside_models:Other", "module 'outside_models' has no subclass of RankingModel called 'Other'"),
        ("nowhere.at_all:Mine", "there is no module 'nowhere.at_all' on this machine; install it"),
        ("outside_models.more:Mine", "there is no module 'outside_models.more' on this machine"),
        ("needs_more:Mine", r"module 'needs_more' can't be imported \(No module named 'module_nobody_has'\)"),
        ("./outside_models.py:Mine", "'./outside_models.py:Mine' is not of the form module:Class"),
        ("/home/me/outside_models:Mine", "is not of the form module:Class"),
        ("..outside_models:Mine", "is not of the form module:Class"),
        ("outside_models:Mine.__init__", "is not of the form module:Class"),
    ],
)
def test_a_name_that_leads_to_no_model_is_refused(folder: Path, name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"ranker.model: .*{sentence}"):
        models.check(Ranker(model=name))
