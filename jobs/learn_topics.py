"""Runs the stage `topics` as a job: ray job submit --working-dir . -- python jobs/learn_topics.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["topics", *sys.argv[1:]])
