"""Training: state, optimiser, the pmapped step, checkpoints, metrics."""
