"""Shim for tools that still call setup.py; the metadata is in setup.cfg."""

import setuptools

setuptools.setup()
