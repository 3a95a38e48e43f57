"""Datasets: sources, splits, the order of batches, augmentation."""

from diffai_jax.data.arrays import statistics
from diffai_jax.data.augment import (
    Augmentation,
    augment,
    to_floats,
    to_unit_range,
)
from diffai_jax.data.batches import batches, epoch_order
from diffai_jax.data.datasets import DATASETS, Dataset, known, source_of
from diffai_jax.data.prefetch import prefetched
from diffai_jax.data.sources import Examples, dataset, load

__all__ = [
    "Augmentation",
    "DATASETS",
    "Dataset",
    "Examples",
    "augment",
    "batches",
    "dataset",
    "epoch_order",
    "known",
    "load",
    "prefetched",
    "source_of",
    "statistics",
    "to_floats",
    "to_unit_range",
]
