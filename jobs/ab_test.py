"""Runs the stage `ab_test` as a job: ray job submit --working-dir . -- python jobs/ab_test.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["ab_test", *sys.argv[1:]])
