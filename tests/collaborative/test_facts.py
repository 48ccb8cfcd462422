"""Facts of rows against those counted by hand."""

import pyarrow as pa

from rayrec.collaborative.facts import facts_of


def test_values_become_facts_unless_they_are_rare_or_say_nothing() -> None:
    ids = pa.array([f"v{number}" for number in range(12)], pa.large_string())
    table = pa.table(
        {
            "video_id": ids.take(pa.array([*range(11, -1, -1)])),  # in another order
            "kind": ["a"] * 6 + ["b"] * 5 + [None],
            "same": ["x"] * 12,
            "tags": [["rare"], *[["one", "two"]] * 5, *[["one"]] * 5, None],
            "age": [*range(11), None],
            "vector": pa.array([[0.5, 1.0]] * 12, pa.list_(pa.float32())),
        }
    )
    facts = facts_of(table, "video_id", ["kind", "same", "tags", "vector", "none"], ids)
    assert facts.shape == (13, 4)
    assert not facts[:2].any()  # index 0, and v0, which is the last row of the table
    assert facts[12].tolist() == [1, 0, 0, 0]  # v11, the first row: kind a, and a rare tag
    assert facts[7].tolist() == [1, 0, 1, 1]  # v6, the sixth row: kind a, tags one and two
    assert facts[2].tolist() == [0, 1, 1, 0]  # v1: kind b, tag one
    assert facts_of(None, "video_id", ["kind"], ids).shape == (13, 0)


def test_numbers_become_tenths() -> None:
    ids = pa.array([str(number) for number in range(100)], pa.large_string())
    facts = facts_of(pa.table({"video_id": ids, "age": range(100)}), "video_id", ["age"], ids)
    assert facts.shape == (101, 10)
    assert facts[1:].sum(axis=0).tolist() == [10] * 10
    assert facts[1:].argmax(axis=1).tolist() == sorted(facts[1:].argmax(axis=1).tolist())
