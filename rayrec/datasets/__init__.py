"""Where catalogs and logs come from: a synthetic world, MovieLens, YouTube, published splits, and any tables in files. One module for each."""
