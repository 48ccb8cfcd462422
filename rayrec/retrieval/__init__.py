"""Search across media: one space for the words, pictures and sounds of videos, an index of it, and what queries become in it."""
