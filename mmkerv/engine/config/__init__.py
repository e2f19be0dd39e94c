"""Configs: read, check, prepare for a runner."""
