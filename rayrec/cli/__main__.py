"""`python -m rayrec.cli`."""

from rayrec.cli import main

main()
