"""Runs the stage `ingest` as a job: ray job submit --working-dir . -- python jobs/ingest_data.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["ingest", *sys.argv[1:]])
