"""A run as one HTML page, and what the demo puts into it."""
