"""Folders of published weights: what is told of each network, and without what."""
