"""The candidate recall of each source, against sets worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from rayrec.config import load
from rayrec.evaluation.candidates import BACKFILL, SourceRecall
from rayrec.recall.pipeline import RecallPipeline, Trace
from tests.recall.small_catalog import ITEMS, make_queues, query
from tests.recall.test_vectors import made_up


def test_each_source_counts_what_it_finds_alone_and_in_the_mix() -> None:
    config = load(None, ["recall.sources={popular: 0.5, user_vector: 0.25}", "recall.candidates=8", "collaborative={}"])
    pipeline, queues = (
        RecallPipeline(config.recall, config.selection, replace(ITEMS, vectors=made_up(21))),
        make_queues(config.recall),
    )
    measured = SourceRecall(pipeline)
    users = [([3, 8], [1, 2, 16, 17]), ([], [1, 20])]
    expected: dict[str, dict[str, list[float]]] = {name: {} for name in ("popular", "user_vector", BACKFILL)}

    def note(source: str, measure: str, value: float) -> None:
        expected[source].setdefault(measure, []).append(value)

    for clicked, relevant in users:
        asked = query(clicked)
        mix = pipeline.candidates(asked, queues, 8, Trace())
        measured.add(asked, queues, mix, np.array(relevant))
        alone = {
            name: {*source.candidates(asked, queues, 8).items.tolist()}
            for name, (source, _) in zip(("popular", "user_vector"), pipeline.sources, strict=True)
        }
        for number, (name, other) in enumerate((("popular", "user_vector"), ("user_vector", "popular"))):
            note(name, "in_mix", len({*mix.items[mix.sources == number].tolist()} & {*relevant}) / len(relevant))
            note(name, "users", float(bool(alone[name])))
            if alone[name]:
                note(name, "alone", len(alone[name] & {*relevant}) / len(relevant))
                note(name, "shared", len(alone[name] & alone[other]) / len(alone[name]))
        note(BACKFILL, "in_mix", len({*mix.items[mix.sources >= 2].tolist()} & {*relevant}) / len(relevant))
    means = measured.means()
    assert {name: {measure: pytest.approx(np.mean(each)) for measure, each in of.items()} for name, of in expected.items()} == means
    assert means["user_vector"]["users"] == 0.5  # who has clicked nothing gets nothing from it
    assert means["popular"]["users"] == 1
    total = sum(means[name]["in_mix"] for name in means)
    assert 0 < total <= 1
    assert SourceRecall(pipeline).means() == {"popular": {}, "user_vector": {}, BACKFILL: {}}
