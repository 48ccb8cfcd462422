"""Files that end the process that decodes them: they fail with a reason, and the others are done as if nothing had happened."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from rayrec.config import Features
from rayrec.features.media import isolation
from rayrec.features.media.isolation import IsolatedDecoder
from rayrec.features.rows import FAILED, decode_rows
from tests.features.clips import tone, write_clip
from tests.features.doomed import doomed

TIMEOUT_S = 120.0  # enough for a clip, on a busy machine too


def table(paths: list[Path]) -> pa.Table:
    nothing = pa.nulls(len(paths), pa.string())
    names, uris = [path.stem for path in paths], [str(path) for path in paths]
    return pa.table({"video_id": names, "uri": uris, "title": nothing, "file_version": nothing})


@contextmanager
def isolated(settings: Features, timeout_s: float = TIMEOUT_S) -> Iterator[IsolatedDecoder]:
    decoder = IsolatedDecoder(doomed, settings, timeout_s)
    try:
        yield decoder
    finally:
        decoder.close()


def test_a_file_that_kills_its_decoder_costs_only_itself(tmp_path: Path, small: Features) -> None:
    good = [write_clip(tmp_path / f"good{number}.mp4", frames=6 + number) for number in range(2)]
    good.append(write_clip(tmp_path / "loud.mp4", sound=tone(440, 1.0)))
    bad = [tmp_path / f"{name}.mp4" for name in ("abort", "killed")]
    with isolated(small) as decoder:
        found = decoder(table([good[0], bad[0], good[1], bad[1], good[2]]))
    alone = decode_rows(table(good), small)
    assert found.take([0, 2, 4]).combine_chunks() == alone.combine_chunks()  # bit for bit
    failed = found.take([1, 3]).to_pylist()
    assert [row["status"] for row in failed] == [FAILED] * 2
    assert [row["video_id"] for row in failed] == ["abort", "killed"]
    assert "crashed 2 times (SIGABRT)" in failed[0]["error"]
    assert "memory runs out" in failed[1]["error"]


def test_a_file_that_is_not_to_blame_is_done_the_second_time(tmp_path: Path, small: Features) -> None:
    with isolated(small) as decoder:
        assert decoder(table([tmp_path / "second_time_well.mp4"]))["status"].to_pylist() == ["ok"]


def test_a_decoder_that_hangs_is_given_up(tmp_path: Path, small: Features) -> None:
    good = write_clip(tmp_path / "good.mp4")
    with isolated(small, timeout_s=10) as decoder:
        start = time.monotonic()
        found = decoder(table([tmp_path / "hangs.mp4", good]))
        assert time.monotonic() - start < 10 * isolation.ATTEMPTS + TIMEOUT_S
    assert found["status"].to_pylist() == [FAILED, "ok"]
    assert found["error"][0].as_py() == "decoding took longer than 10 s; allow more with features.decode_timeout_s"


def test_a_file_that_takes_all_memory_is_given_up(tmp_path: Path, small: Features) -> None:
    with isolated(small) as decoder:
        found = decoder(table([tmp_path / "greedy.mp4", write_clip(tmp_path / "good.mp4")]))
    assert found["status"].to_pylist() == [FAILED, "ok"]


def test_no_process_is_left(small: Features) -> None:
    with isolated(small) as decoder:
        assert decoder.child is not None
        process = decoder.child.process
    assert process.poll() is not None


def test_a_child_ends_with_its_parent(small: Features) -> None:
    with isolated(small) as decoder:
        child = decoder.child
        assert child is not None
        child.connection.close()  # as the end of the parent does
        assert child.process.wait(TIMEOUT_S) == 0


def test_a_child_that_cannot_start_is_no_fault_of_the_files(
    tmp_path: Path, small: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with isolated(small) as decoder, pytest.raises(RuntimeError, match="could not be started"):
        decoder(table([write_clip(tmp_path / "good.mp4")]))
