"""Runs the stage `tune` as a job: ray job submit --working-dir . -- python jobs/tune_ranker.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
