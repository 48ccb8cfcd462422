"""Runs `search_index` as a job: ray job submit --working-dir . -- python jobs/search_index.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["search_index", *sys.argv[1:]])
