"""Command-line tools, one module a command; the scripts in ``tools/`` call them."""
