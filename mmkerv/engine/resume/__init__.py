"""Bit-exact resume of interrupted training."""
