"""Where catalogs and logs come from: a synthetic world, MovieLens, YouTube, any Parquet or CSV; all through `ingestion.ingest`."""
