"""Depthwise separable and spatially separable convolutions."""
