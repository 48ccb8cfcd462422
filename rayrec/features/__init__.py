"""Vectors from media files and titles: decoding, then image, motion, audio and text features, and their reduction."""
