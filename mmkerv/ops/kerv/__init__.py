"""Kervolution: convolution with a kernel function in place of the inner product."""
