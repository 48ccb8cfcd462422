"""Which commands do without which libraries, so that they start at once."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rayrec.workspace.versions import Manifest, Workspace

HEAVY = ("torch", "ray", "sklearn", "scipy", "matplotlib", "pandas", "gensim", "fastapi")
ARROW = ("numpy", "pyarrow")
# Runs a command as `rayrec` would, and prints which of the modules named first were imported.
PROGRAM = """
import json, sys
names, arguments = json.loads(sys.argv[1]), sys.argv[2:]
from rayrec.cli import main
try:
    main(arguments)
finally:
    print(json.dumps([name for name in names if name in sys.modules]), file=sys.stderr)
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose workspace holds one finished stage."""
    workspace = Workspace(tmp_path / "space")
    version = workspace.open_version("ingest", "aa")
    workspace.publish(Manifest("ingest", version, "aa", {}, {}, {"catalog": 2}, 2, 2, 0, 0.5, 1_700_000_000_000))
    path = tmp_path / "config.yaml"
    path.write_text(f"workspace: {workspace.root}\n")
    return path


def imported_by(arguments: list[str], names: tuple[str, ...], status: int = 0) -> list[str]:
    """Which of the modules a command imports."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(names), *arguments], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    found: list[str] = json.loads(done.stderr.splitlines()[-1])
    return found


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["topics", "--help"], ["--version"], ["version"]])
def test_help_and_version_import_neither_arrow_nor_the_config(arguments: list[str]) -> None:
    assert imported_by(arguments, (*HEAVY, *ARROW, "yaml", "httpx")) == []


def test_status_and_stop_import_nothing_heavy(config: Path) -> None:
    for command in ("status", "stop"):
        assert imported_by([command, str(config)], (*HEAVY, "pyarrow.dataset", "fsspec", "httpx")) == []


def test_a_file_of_weights_is_converted_without_torch() -> None:
    assert imported_by(["convert", "nowhere.tflite", "a.safetensors"], (*HEAVY, "pyarrow"), status=1) == []


def test_swap_and_rollback_find_out_without_ray_that_nothing_runs(config: Path) -> None:
    for command in ("swap", "rollback"):
        assert imported_by([command, str(config)], (*HEAVY, "pyarrow.dataset"), status=1) == []


def test_a_log_becomes_shards_without_any_heavy_library(tmp_path: Path) -> None:
    (tmp_path / "catalog.csv").write_text("video_id\n" + "".join(f"v{video}\n" for video in range(10)))
    rows = [f"u{row % 3},v{row % 10},{1_700_000_000_000 + row},{row % 7 % 2}\n" for row in range(60)]
    (tmp_path / "log.csv").write_text("user_id,video_id,shown_at,clicked\n" + "".join(rows))
    path = tmp_path / "config.yaml"
    path.write_text(
        f"workspace: {tmp_path}/space\n"
        f"dataset: {{kind: files, catalog: {tmp_path}/catalog.csv, interactions: {tmp_path}/log.csv}}\n"
    )
    heavy = tuple(name for name in HEAVY if name != "pandas")  # Arrow imports it when it takes an array of NumPy's
    for command in ("ingest", "encode"):
        assert imported_by([command, str(path)], heavy) == []
    assert Workspace(tmp_path / "space").rows("interactions") == 60


def test_the_client_needs_httpx_alone() -> None:
    code = "import sys, rayrec.client; print([name for name in ('numpy', 'pydantic', 'pyarrow', 'ray') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stage_runs_though_streams_are_closed(tmp_path: Path, closed: str) -> None:
    (tmp_path / "catalog.csv").write_text("video_id\nv1\n")
    (tmp_path / "c.yaml").write_text("workspace: space\ndataset: {kind: files, catalog: catalog.csv}\n")
    command = f"{shlex.quote(sys.executable)} -m rayrec.cli ingest c.yaml {closed}"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True).returncode == 0
    assert Workspace(tmp_path / "space").rows("catalog") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["version"], ["status"]])
def test_an_output_that_is_full_is_a_sentence(arguments: list[str], config: Path) -> None:
    command = [sys.executable, "-c", "from rayrec.cli import main; main()", *arguments]
    if arguments == ["status"]:
        command.append(str(config))
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "rayrec: the output can't be written: No space left on device\n")
