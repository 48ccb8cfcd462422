"""Runs `private_public` as a job: ray job submit --working-dir . -- python jobs/private_public.py CONFIG [KEY=VALUE]..."""

import sys

from rayrec.cli import main

if __name__ == "__main__":
    main(["private_public", *sys.argv[1:]])
