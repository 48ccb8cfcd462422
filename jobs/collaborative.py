"""Runs `collaborative` as a job: ray job submit --working-dir . -- python jobs/collaborative.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["collaborative", *sys.argv[1:]])
