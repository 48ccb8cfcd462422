"""users.arrow is sorted however many pieces it is made from, and each user is found in it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from rayrec.serving import user_log
from rayrec.serving.user_log import UNKNOWN_USER, USERS, UserLogs


def table(users: dict[str, int]) -> pa.Table:
    """So many clicks of each user, whose items begin with that number."""
    lists = [list(range(count, 2 * count)) for _, count in sorted(users.items())]
    columns = {"user_id": sorted(users), "clicked": lists, "clicked_at": lists, "seen": [[1, 2]] * len(users)}
    return pa.table(columns).cast(USERS)


def written(pieces: list[pa.Table], path: Path) -> pa.Table:
    user_log.write(pafs.LocalFileSystem(), str(path), iter(pieces))
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_pieces_become_one_sorted_file(pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_log, "BATCH", 16)
    names = [f"{letter}{number}é" for letter in "zbä\U0001f600" for number in range(40)]
    users = {name: place % 23 for place, name in enumerate(names)}
    rng = np.random.default_rng(0)
    of = rng.integers(0, pieces, len(names))
    parts = [
        table({name: users[name] for name, piece in zip(names, of, strict=True) if piece == number}) for number in range(pieces)
    ]
    found = written([*parts, USERS.empty_table()], tmp_path / "users.arrow")
    batches = [batch.num_rows for batch in found.to_batches()]
    assert found["user_id"].to_pylist() == sorted(names)
    assert len(batches) > 5
    assert max(batches) <= 3 * 16
    logs = UserLogs(found)
    for name, count in users.items():
        assert logs.find(name).clicked.tolist() == logs.find(name).clicked_at.tolist() == list(range(count, 2 * count))
        assert logs.find(name).seen.tolist() == [1, 2]
    for stranger in ("", "a", "z0", "z0éé", "\U0001f601"):
        assert logs.find(stranger) is UNKNOWN_USER
    assert logs.with_most_clicks(9) == sorted(sorted(names), key=lambda name: -users[name])[:9]


def test_a_log_without_users_has_an_empty_file(tmp_path: Path) -> None:
    for pieces in ([], [USERS.empty_table()]):
        logs = UserLogs(written(pieces, tmp_path / "users.arrow"))
        assert logs.find("u1") is UNKNOWN_USER
        assert logs.with_most_clicks(5) == []
