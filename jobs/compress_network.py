"""Runs the stage `compress` as a job: ray job submit --working-dir . -- python jobs/compress_network.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["compress", *sys.argv[1:]])
