"""Checks of data sets and clear errors for broken annotations."""
