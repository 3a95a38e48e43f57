"""A checker of proofs that needs nothing but NumPy: `python -m diffai_jax.check`."""
