"""The built-in shapes data set (:mod:`mmkerv.datasets.shapes`).

Nothing is imported here, so that ``python -m mmkerv.datasets.shapes -h`` answers at once.
"""
