"""Convolution by Fourier transforms."""
