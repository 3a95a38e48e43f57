"""Flax modules that take a Mode: concrete layers and abstract layers."""

from diffai_jax.nn.abstract import (
    AbstractLayer,
    CorrelateAll,
    CorrelateFixed,
    CorrelateMax,
    CorrelateMaxPool,
    CorrelateRandom,
    DecorrelateAll,
    DecorrelateMin,
    DecorrelateRandom,
    ToHybrid,
    ToZonotope,
)
from diffai_jax.nn.activations import (
    ELU,
    GELU,
    LeakyReLU,
    MaxPool2D,
    ReLU,
    SELU,
    Sigmoid,
    Softplus,
    Tanh,
)
from diffai_jax.nn.deep_loss import DeepLoss
from diffai_jax.nn.dropout import Dropout
from diffai_jax.nn.layers import (
    AvgPool2D,
    Conv2D,
    ConvTranspose2D,
    GlobalAvgPool2D,
    Linear,
    Normalize,
)

__all__ = [
    "AbstractLayer",
    "AvgPool2D",
    "Conv2D",
    "ConvTranspose2D",
    "CorrelateAll",
    "CorrelateFixed",
    "CorrelateMax",
    "CorrelateMaxPool",
    "CorrelateRandom",
    "DecorrelateAll",
    "DecorrelateMin",
    "DecorrelateRandom",
    "DeepLoss",
    "Dropout",
    "ELU",
    "GELU",
    "GlobalAvgPool2D",
    "LeakyReLU",
    "Linear",
    "MaxPool2D",
    "Normalize",
    "ReLU",
    "SELU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "ToHybrid",
    "ToZonotope",
]
