"""Runs the stage `compare` as a job: ray job submit --working-dir . -- python jobs/compare_rankers.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
