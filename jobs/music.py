"""Runs `music` as a job: ray job submit --working-dir . -- python jobs/music.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["music", *sys.argv[1:]])
