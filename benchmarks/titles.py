"""How many titles a second each built-in title encoder learns, and how long a whole training of topics takes.

    python benchmarks/titles.py [--videos 10000] [--encoders bag transformer] [--threads N] [topics.KEY=VALUE]...

The titles are made up: 4 to 20 words of Zipf's law, 40 classes, three tags of 12,000. Their lengths in subwords are those of
captions: about 20, and 40 for the longest tenth.
"""

import argparse
import time

import numpy as np
import pyarrow as pa
from figures import show

from rayrec import tables
from rayrec.config import Topics
from rayrec.topics.fitting import train_representation
from rayrec.training.callbacks import Epoch, TrainingCallback

WORDS, CLASSES, TAGS = 20_000, 40, 12_000


def made_up(videos: int, seed: int = 0) -> pa.Table:
    """A catalog of made-up titles. Half of the words of a title, and its tags, depend on its class."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(WORDS)]
    kinds = rng.integers(0, CLASSES, videos)
    titles, tags = [], []
    for kind in kinds:
        count = rng.integers(4, 21)
        ranks = np.minimum(rng.zipf(1.3, count), WORDS) - 1
        own = np.where(rng.random(count) < 0.5, ranks, (ranks * CLASSES + kind) % WORDS)
        titles.append(" ".join(words[word] for word in own))
        tags.append([f"tag {(min(rank, TAGS) * CLASSES + kind) % TAGS}" for rank in rng.zipf(1.3, 3)])
    columns = {"video_id": [f"v{row}" for row in range(videos)], "title": titles, "tags": tags}
    return tables.from_columns("catalog", columns | {"primary_class": [str(kind) for kind in kinds]})


def main() -> None:
    import torch  # after rayrec, which sets what torch reads when it is imported

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--videos", type=int, default=10_000)
    arguments.add_argument("--encoders", nargs="+", default=["bag", "transformer"])
    arguments.add_argument("--epochs", type=int, default=Topics().epochs)
    arguments.add_argument("--batch", type=int, default=Topics().batch_size)
    given = arguments.parse_args()
    catalog = made_up(given.videos)
    rows = []
    for encoder in given.encoders:
        settings = Topics(title_encoder=encoder, epochs=given.epochs, batch_size=given.batch)
        epochs: list[Epoch] = []
        started, used = time.perf_counter(), time.process_time()
        train_representation(catalog, None, None, settings, 0, callback=TrainingCallback(on_epoch=epochs.__iadd__))
        seconds, used = time.perf_counter() - started, time.process_time() - used
        speed = sorted(epoch.examples_per_s for epoch in epochs)[len(epochs) // 2]
        rows.append({"encoder": encoder, "titles/s (median epoch)": round(speed), "seconds": seconds, "CPU seconds": used})
    show(f"{given.videos} titles, {given.epochs} epochs of batches of {given.batch}, {torch.get_num_threads()} threads", rows)


if __name__ == "__main__":
    main()
