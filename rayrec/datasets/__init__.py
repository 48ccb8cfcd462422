"""Where catalogs and logs come from: a synthetic world, MovieLens, YouTube, and any tables in files. One module for each."""
