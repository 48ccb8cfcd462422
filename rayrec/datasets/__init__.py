"""Where catalogs and logs come from: the synthetic world, MovieLens, and any Parquet or CSV. `ingestion.ingest` is the way in."""
