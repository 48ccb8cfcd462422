"""Runs the stage `off_policy` as a job: ray job submit --working-dir . -- python jobs/off_policy.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["off_policy", *sys.argv[1:]])
