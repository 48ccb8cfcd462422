"""What the benchmarks of serving share: a world to serve, the service as processes, and a client that loads it."""
