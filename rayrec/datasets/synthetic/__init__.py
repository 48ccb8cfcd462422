"""The synthetic world: clips that can be seen, heard and read, and people who choose among them."""
