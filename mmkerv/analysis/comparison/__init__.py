"""A comparison of operators on one task: variants of a config, their runs, and what the runs say."""
