"""The root of all errors that a user can mend. A command prints them as sentences; any other error is a bug."""

import difflib
from collections.abc import Iterable


class RayrecError(Exception):
    """Something that the user can mend. The message is a sentence that names the file, row or key, and says what to change."""


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence that names the nearest known word, with `prefix` before it, or lists them all when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {prefix + near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"
