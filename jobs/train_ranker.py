"""Runs the stage `train` as a job: ray job submit --working-dir . -- python jobs/train_ranker.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
