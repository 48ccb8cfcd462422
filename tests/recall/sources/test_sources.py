"""Which sources a config names, what they may bring, and how one is added."""

from pathlib import Path

import numpy as np
import pytest

from rayrec.config import ConfigError, load
from rayrec.recall import sources
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.pipeline import RecallPipeline, Trace
from tests.recall.small_catalog import ITEMS, make_queues, query

# A source of another team: the items next to the last clicked ones.
NEIGHBOURS = """
import numpy as np
from rayrec.config import Section
from rayrec.recall.source import Candidates, Source


class Options(Section):
    reach: int = 1


class Neighbours(Source):
    Options = Options
    label = "neighbour"

    def candidates(self, query, queues, count):
        latest = query.clicked[::-1]
        return Candidates.of(np.minimum(latest + self.options.reach, 20)[:count].astype(np.int32))
"""


def test_by_default_topics_bring_all_candidates() -> None:
    [(source, count)] = sources.build(load(None, ["recall.candidates=50"]).recall, ITEMS)
    assert (type(source).__name__, count) == ("Topics", 50)


@pytest.mark.parametrize("shares", [[1 / 3, 1 / 3, 1 / 3], [0.29, 0.5, 0.21], [0.01, 0.01], [1.0]])
def test_shares_are_shares_of_the_candidates(shares: list[float]) -> None:
    named = dict(zip(["topics", "popular", "fresh"], shares, strict=False))
    counts = [count for _, count in sources.build(load(None, [f"recall.sources={named}", "recall.candidates=100"]).recall, ITEMS)]
    assert sum(counts) == round(100 * sum(shares))
    assert counts == pytest.approx([100 * share for share in shares], abs=1)


def test_popular_and_fresh_items_are_sources_too() -> None:
    settings = load(None, ["recall.sources={fresh: 0.2, popular: 0.6, topics: 0.2}", "recall.candidates=10"]).recall
    pipeline, exclusions = RecallPipeline(settings, load(None).selection, ITEMS), Exclusions.of(np.array([3]))
    found = pipeline.candidates(query([2], exclusions, draw_seed=1), make_queues(settings), 10, trace := Trace())
    # The best of topic 2 are there as popular ones, so that backfill adds two more.
    assert pipeline.labels[found.sources].tolist() == ["new"] * 2 + ["popular"] * 6 + ["popular"] * 2
    assert found.items[2:8].tolist() == [1, 2, 4, 5, 6, 7]
    assert [(step.name, step.count) for step in trace.steps] == [("source", 10), ("filter", 8), ("backfill", 10)]


def test_a_source_is_added_by_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neighbours.py").write_text(NEIGHBOURS)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    settings = load(None, ["recall.sources={neighbours: {share: 0.5, options: {reach: 2}}, topics: 0.5}"]).recall
    pipeline = RecallPipeline(settings, load(None).selection, ITEMS)
    found = pipeline.candidates(query([4, 9]), make_queues(settings), 4, Trace())
    assert found.items[:2].tolist() == [11, 6]
    assert pipeline.labels[found.sources[:3]].tolist() == ["neighbour", "neighbour", "topic"]
    with pytest.raises(
        ConfigError, match=r"recall.sources.neighbours.options: source 'neighbours' has no option 'reac'; did you mean"
    ):
        sources.check(load(None, ["recall.sources.neighbours={options: {reac: 2}}"]))
    with pytest.raises(ConfigError, match=r"recall.sources.neighbours.options.reach: must be a whole number"):
        sources.check(load(None, ["recall.sources.neighbours={options: {reach: far}}"]))


def test_what_the_config_may_not_say() -> None:
    with pytest.raises(ConfigError, match=r"recall.sources: there is no source 'topic'; did you mean 'topics'\?"):
        sources.check(load(None, ["recall.sources={topic: 1}"]))
    with pytest.raises(ConfigError, match=r"the shares of recall.sources add up to 1.2; make them 1 or less"):
        load(None, ["recall.sources={topics: 0.7, popular: 0.5}"])
    with pytest.raises(
        ConfigError, match=r"unknown key 'recall.sources.topics.shar'; did you mean 'recall.sources.topics.share'\?"
    ):
        load(None, ["recall.sources.topics.shar=0.5"])
    with pytest.raises(ConfigError, match=r"recall.sources.topics: must be more than 0 \(got 0\)"):
        load(None, ["recall.sources.topics=0"])
