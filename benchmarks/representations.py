"""How well picture, title, MMoE and MMoE + tags know the classes (Pu et al., Table I and Figure 3), over several splits.

    python benchmarks/representations.py CONFIG [KEY=VALUE]... [--splits N]

The workspace of the config must hold a catalog, and vectors where there are media. `rayrec topics report` shows one split; of a
small catalog its held-out tenth is too small to tell much, so this takes the mean and the deviation over several. Where the catalog
has a column `fold`, as that of a slideshow, each split holds out a fold, whose pictures and sounds are in no other video.
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
    folds = catalog["fold"].to_numpy() if "fold" in catalog.column_names else None
    splits = given.splits if folds is None else min(given.splits, folds.max() + 1)
    runs = []
    for split in range(splits):
        held = None if folds is None else np.flatnonzero(folds == split)
        runs.append(compare(catalog, vectors, pixels, classes, config.topics, config.seed + split, held))
        print(f"split {split + 1} of {splits}", file=sys.stderr)
    for kind in classes:
        rows = []
        for name in runs[0]:
            row: dict[str, object] = {"representation": name}
            for figure in ("ari", "nmi", "distance_ratio"):
                values = [getattr(run[name][kind], figure) for run in runs]
                row[figure] = f"{np.mean(values):.3f} ± {np.std(values):.3f}"
            rows.append(row)
        count = round(catalog.num_rows / (10 if folds is None else folds.max() + 1))
        show(f"{kind}, {len(np.unique(classes[kind]))} of them, {splits} splits, {count} videos held out", rows)


if __name__ == "__main__":
    main()
