"""Where catalogs and logs come from: a synthetic world, MovieLens, YouTube, published splits, any tables. One module for each."""
