"""Draws that depend on a text alone, so that all replicas draw the same."""

import hashlib


def unit_hash(text: str) -> float:
    """A number in [0, 1) that looks random."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / 2**56
