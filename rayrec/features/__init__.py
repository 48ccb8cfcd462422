"""Media files to vectors: decode, then image, motion and audio features. `extraction` runs it all on Ray Data."""
