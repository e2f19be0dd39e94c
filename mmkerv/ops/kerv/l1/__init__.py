"""L1 distance between patches and filters: one function, four implementations."""
