"""Runs the stage `publish` as a job: ray job submit --working-dir . -- python jobs/publish_bundle.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["publish", *sys.argv[1:]])
