"""Runs the stage `extract` as a job: ray job submit --working-dir . -- python jobs/extract_features.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["extract", *sys.argv[1:]])
