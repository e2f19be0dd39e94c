"""Deployment: fold operators into plain convolutions, compare, export, load a trained model."""
