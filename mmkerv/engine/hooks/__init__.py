"""Hooks for the operators and for training."""
