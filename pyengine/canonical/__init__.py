"""What a model is: one configuration and one table of tensors, wherever the model came from."""

from pyengine.canonical.config import GenerationDefaults, LayerConfig, ModelConfig, StackConfig
from pyengine.canonical.model import CanonicalModel, LazyTensor, Removal
from pyengine.canonical.tensors import TensorSpec, tensor_specs

__all__ = [
    "CanonicalModel",
    "GenerationDefaults",
    "LazyTensor",
    "ModelConfig",
    "Removal",
    "StackConfig",
    "TensorSpec",
    "tensor_specs",
]
