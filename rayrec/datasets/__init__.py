"""Where catalogs and logs come from: a synthetic world, MovieLens, YouTube, and any Parquet or CSV files. One module for each."""
