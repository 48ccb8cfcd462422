"""The AUC and the log loss of a ranker by the size of its embeddings (Hasama & Li, Figure 4), as a picture.

    rayrec compare configs/multimodal_results.yaml
    PYTHONPATH=. python benchmarks/embedding_size.py configs/multimodal_results.yaml docs/images/embedding_size.png

It draws the arms of the last comparison that change nothing but the size: a point for each seed, and a line through the means.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from rayrec.config import Config, load
from rayrec.evaluation.comparison import METRICS, RESULTS
from rayrec.workspace.files import from_json, read_whole
from rayrec.workspace.versions import Workspace

SIZE = "ranker.embedding_size"

Points = dict[int, list[float]]  # embedding size -> the value of each seed


def measured(config: Config, metric: str) -> Points:
    """The values of a metric by embedding size, from the smallest size to the largest."""
    workspace, points = Workspace(config.workspace), defaultdict(list)
    default = config.ranker.embedding_size
    sizes = {arm: values.get(SIZE, default) for arm, values in config.comparison.arms.items() if values.keys() <= {SIZE}}
    for run in from_json(read_whole(workspace.fs, f"{workspace.folder('compare')}/{RESULTS}")):
        if run["arm"] in sizes and run["measured"]:
            points[sizes[run["arm"]]].append(run["measured"][metric])
    return dict(sorted(points.items()))


def draw(config: Config) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("auc", "log_loss"), strict=True):
        points = measured(config, metric)
        for size, values in points.items():
            axes.scatter([size] * len(values), values, s=22, color="tab:blue", alpha=0.5, linewidths=0)
        axes.plot(list(points), [mean(values) for values in points.values()], color="tab:blue")
        axes.set_xscale("log", base=2)
        axes.set(xlabel="embedding size", ylabel=f"{METRICS[metric]} of the test split", xticks=list(points))
        axes.set_xticklabels([str(size) for size in points])
        axes.grid(alpha=0.3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("overrides", nargs="*", help="further settings, as `rayrec compare` takes them: workspace=...")
    options = parser.parse_args()
    draw(load(options.config, options.overrides)).savefig(options.picture, dpi=120)


if __name__ == "__main__":
    main()
