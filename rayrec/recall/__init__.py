"""Topic recall: queues and the steps that turn a user's clicks into candidates. Pure and fast, no I/O."""
