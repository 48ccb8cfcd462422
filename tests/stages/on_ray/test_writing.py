"""Where parts begin and end. Without Ray."""

from collections.abc import Iterator

import pytest

from rayrec.stages.on_ray import writing


def test_a_part_is_full_or_has_lasted_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(writing.time, "monotonic", lambda: clock[0])

    def blocks() -> Iterator[tuple[str, int]]:
        for name, rows, seconds in (("a", 3, 1), ("b", 4, 1), ("c", 2, 1), ("d", 1, 20), ("e", 9, 0), ("f", 1, 0)):
            clock[0] += seconds
            yield name, rows

    assert list(writing.parts_of(blocks(), videos=7, seconds=20)) == [["a", "b"], ["c", "d"], ["e"], ["f"]]
