"""Convolution of convolution (CoC)."""
