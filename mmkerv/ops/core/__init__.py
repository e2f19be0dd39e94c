"""Shared code of the operators: base classes, folding, frozen kernels, argument checks, precision."""
