"""Continuous-kernel convolution (CKConv)."""
