"""Runs the stage `reduce` as a job: ray job submit --working-dir . -- python jobs/reduce_features.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["reduce", *sys.argv[1:]])
