"""Reading media files: their packets, the frames and sound in them, and what of a picture is kept."""
