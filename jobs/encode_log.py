"""Runs the stage `encode` as a job: ray job submit --working-dir . -- python jobs/encode_log.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["encode", *sys.argv[1:]])
