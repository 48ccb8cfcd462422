"""What every benchmark needs: what ran it, the median of several runs, peak memory, and a table with a line of JSON below."""

import datetime
import importlib.metadata
import json
import os
import resource
import statistics
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table


def median_of(runs: list[float]) -> float:
    return statistics.median(runs)


def peak_gib() -> float:
    """The most memory that this process (without its children) has held so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def machine() -> dict[str, Any]:
    """When and on what a benchmark ran."""
    return {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load": round(os.getloadavg()[0], 1),
        **{name: importlib.metadata.version(name) for name in ("torch", "ray")},
    }


def show(title: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Print `rows` (all with the keys of the first) as a table for people, then all of it as one JSON line."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()))
    about = machine()
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in {**facts, **about}.items()))
    print(json.dumps({"benchmark": title, "rows": rows, **facts, "machine": about}))
