"""Runs the stage `replay` as a job: ray job submit --working-dir . -- python jobs/replay_days.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["replay", *sys.argv[1:]])
