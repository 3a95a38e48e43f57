"""Provably robust training of neural networks with hybrid zonotopes."""

__version__ = "0.1.0"
