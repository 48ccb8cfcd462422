"""How well picture, title, MMoE and MMoE + tags know the classes (SOURCES C.6, Table I and Figure 3), over several splits.

    python benchmarks/representations.py CONFIG [KEY=VALUE]... [--splits N]

The workspace of the config must hold a catalog, and vectors where there are media. `rayrec topics report` shows one split; of a
small catalog its held-out tenth is too small to tell much, so this takes the mean and the deviation over several.
"""

import argparse
import sys

import numpy as np
from figures import show

from rayrec.config import load
from rayrec.evaluation.representations import compare, known_classes
from rayrec.workspace.versions import Workspace


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("config")
    arguments.add_argument("settings", nargs="*", help="section.key=value")
    arguments.add_argument("--splits", type=int, default=5)
    given = arguments.parse_args()
    config = load(given.config, given.settings)
    workspace = Workspace(config.workspace)
    catalog = workspace.read("catalog")
    vectors, features, truth = (
        workspace.read(name) if workspace.has(name) else None for name in ("vectors", "features", "truth_topics")
    )
    classes = known_classes(catalog, truth)
    pixels = features if config.topics.cover_network is not None else None
    runs = []
    for split in range(given.splits):
        runs.append(compare(catalog, vectors, pixels, classes, config.topics, config.seed + split))
        print(f"split {split + 1} of {given.splits}", file=sys.stderr)
    for kind in classes:
        rows = []
        for name in runs[0]:
            row: dict[str, object] = {"representation": name}
            for figure in ("ari", "nmi", "distance_ratio"):
                values = [getattr(run[name][kind], figure) for run in runs]
                row[figure] = f"{np.mean(values):.3f} ± {np.std(values):.3f}"
            rows.append(row)
        held = f"{given.splits} splits, {round(0.1 * catalog.num_rows)} videos held out"
        show(f"{kind}, {len(np.unique(classes[kind]))} of them, {held}", rows)


if __name__ == "__main__":
    main()
