"""Where catalogs and logs come from: a synthetic world, MovieLens, YouTube, published splits, any tables in files. One module each."""
