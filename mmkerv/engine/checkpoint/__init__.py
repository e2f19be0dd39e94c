"""Checkpoints: safe loading, atomic writing, comparison with a network, conversion.

:mod:`mmkerv.engine` exports the functions for users.
"""
