"""Commands that draw trained networks."""
