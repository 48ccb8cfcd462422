"""How much memory the frozen items of a ranker may take."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rayrec.ranking import frozen
from rayrec.ranking.frozen import room
from rayrec.training.trainer import CPU

MIB = 2**20


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the limits of this process, on a machine with 1,000 MiB free."""
    monkeypatch.setattr(frozen, "CGROUP", tmp_path)
    monkeypatch.setattr(frozen.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000 * MIB))
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [
        (None, None, 1000),  # no container
        ("max\n", "600\n", 1000),  # one without a limit
        (f"{500 * MIB}\n", f"{100 * MIB}\n", 400),
        (f"{5000 * MIB}\n", "0\n", 1000),  # the machine has less than the container may take
        (f"{500 * MIB}\n", f"{501 * MIB}\n", 0),
    ],
)
def test_a_ranker_takes_a_quarter_of_what_machine_and_container_have_left(
    container: Path, limit: str | None, used: str | None, free: int
) -> None:
    for name, text in (("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (container / name).write_text(text)
    assert room(CPU) == free * MIB / 4
    assert room(CPU, sharing=4) == free * MIB / 16


def test_rankers_that_share_a_gpu_share_the_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (800 * MIB, 1000 * MIB))
    assert [room(torch.device("cuda"), sharing) for sharing in (1, 2)] == [200 * MIB, 100 * MIB]
