"""Base classes of the operators, folding, frozen kernels, argument checks, precision."""
