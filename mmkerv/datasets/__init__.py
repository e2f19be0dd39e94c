"""Built-in data set of shapes (:mod:`mmkerv.datasets.shapes`), and transforms of images and sequences.

This module imports nothing, so that ``python -m mmkerv.datasets.shapes -h`` is fast.
"""
