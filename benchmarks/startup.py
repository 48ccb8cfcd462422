"""How much CPU time and how long the commands take that should start at once, beside the libraries that they can't do without.

    python benchmarks/startup.py [--repeats 7]

Each command runs in a process of its own, in a temporary workspace with one finished stage. Before the runs that are measured, each
runs once, so that Python has compiled its modules and the files are in memory. A ratio is a command's CPU time to that of its
baseline: `import typer, pydantic` for the command line, `import httpx` for the client.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import median_of, show

from rayrec.workspace.versions import Manifest, Workspace

ROOT = Path(__file__).parents[1]
PROGRAM = "import sys; from rayrec.cli import main; main(sys.argv[1:])"  # what the script `rayrec` does
CLI, CLIENT = "import typer, pydantic", "import httpx"


@dataclass(frozen=True)
class Task:
    name: str
    arguments: list[str]  # of Python
    baseline: str | None = None
    limit_s: float | None = None  # of CPU time
    status: int = 0


def tasks(config: str) -> list[Task]:
    """What is measured, the baselines first. `swap` ends with a sentence, because no service runs."""
    return [
        *(Task(code, ["-c", code]) for code in (CLI, CLIENT)),
        Task("rayrec --help", ["-c", PROGRAM, "--help"], CLI, 0.4),
        Task("rayrec --version", ["-c", PROGRAM, "--version"], CLI),
        Task("rayrec status", ["-c", PROGRAM, "status", config], CLI, 1.0),
        Task("rayrec swap", ["-c", PROGRAM, "swap", config], CLI, status=1),
        Task("rayrec stop", ["-c", PROGRAM, "stop", config], CLI),
        Task("import rayrec.client", ["-c", "import rayrec.client"], CLIENT),
    ]


def measured(task: Task) -> tuple[float, float]:
    """Seconds of CPU (user and system) and of wall time of one run."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *task.arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
    if process.returncode != task.status:
        raise SystemExit(f"{task.name} ended with status {process.returncode}: {errors.decode()}")
    return usage.ru_utime + usage.ru_stime, wall


def medians(task: Task, repeats: int) -> tuple[float, float]:
    measured(task)
    cpu, wall = zip(*(measured(task) for _ in range(repeats)), strict=True)
    return median_of(list(cpu)), median_of(list(wall))


def small_workspace(folder: str) -> str:
    """The path of a config whose workspace holds one finished stage."""
    workspace = Workspace(f"{folder}/workspace")
    version = workspace.open_version("ingest", "f")
    workspace.publish(Manifest("ingest", version, "f", {}, {}, {"catalog": 1}, 1, 1, 0, 0.0, 0))
    config = Path(folder) / "config.yaml"
    config.write_text(f"workspace: {workspace.root}\n")
    return str(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        cpu_of: dict[str, float] = {}
        for task in tasks(small_workspace(folder)):
            cpu, wall = medians(task, repeats)
            cpu_of[task.name] = cpu
            more = cpu - cpu_of[task.baseline] if task.baseline else 0.0
            ratio = cpu / cpu_of[task.baseline] if task.baseline else 1.0
            limit = "-" if task.limit_s is None else task.limit_s
            rows.append({"command": task.name, "cpu_s": cpu, "wall_s": wall, "more_s": more, "ratio": ratio, "limit_s": limit})
    show("startup", rows, repeats=repeats)


if __name__ == "__main__":
    main()
