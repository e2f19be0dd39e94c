"""Checkpoints: safe loading, atomic writing, key matching, conversion."""
