"""Runs the stage `evaluate` as a job: ray job submit --working-dir . -- python jobs/evaluate_ranker.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
