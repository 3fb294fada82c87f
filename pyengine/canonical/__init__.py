"""What a model is: one configuration and one table of tensors, wherever the model came from."""

from pyengine.canonical.config import (
    AttentionConfig,
    FeedForwardConfig,
    HeadConfig,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    StackConfig,
    default_scale,
)
from pyengine.canonical.generation import GenerationDefaults
from pyengine.canonical.model import CanonicalModel, LazyTensor, Removal
from pyengine.canonical.tensors import TensorSpec, tensor_specs

__all__ = [
    "AttentionConfig",
    "CanonicalModel",
    "FeedForwardConfig",
    "GenerationDefaults",
    "HeadConfig",
    "LayerConfig",
    "LazyTensor",
    "ModelConfig",
    "Removal",
    "RopeConfig",
    "StackConfig",
    "TensorSpec",
    "default_scale",
    "tensor_specs",
]
