"""`from_pretrained` and `save_pretrained` of the models: the checkpoint room's door to Paddle."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import paddle
from paddle import nn
from paddle.utils import unique_name

from glm.checkpoint.check import check_state
from glm.checkpoint.hub import download_model
from glm.checkpoint.read import open_checkpoint
from glm.checkpoint.write import save_state
from glm.config import PRESETS, UNTRAINED_PRESETS, GLMConfig, preset_name

PRESET_SEED = 42  # of the weights of presets that nobody has trained


class CheckpointMixin:
    """Loads every supported directory, and writes PaddleNLP's."""

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, dtype: str | None = None, from_scratch: bool = False, **overrides
    ):
        """A model with the weights of a directory or of a published preset.

        Args:
            name_or_path: a directory that PaddleNLP, Hugging Face or this project wrote, or a preset.
            dtype: of the weights in memory; if not given the checkpoint's own, or float32 on a CPU, which has no
                half-precision matmul.
            from_scratch: random weights in the shape of the preset or of the directory's config.json.
            overrides: fields of `GLMConfig` to change.

        Raises:
            GLMError: nothing there, a damaged or foreign file, weights that do not fit the config.json.
        """
        name_or_path = str(name_or_path)
        overrides |= {"dtype": dtype} if dtype else {}
        if from_scratch:
            return _build(cls, GLMConfig.from_pretrained(name_or_path, **overrides))
        if not Path(name_or_path).is_dir() and preset_name(name_or_path) in UNTRAINED_PRESETS:
            with _own_random_numbers():
                model = _build(cls, GLMConfig.from_pretrained(name_or_path, **overrides | {"dtype": "float32"}))
            return model.cast(overrides.get("dtype", "float32"))
        directory = Path(name_or_path)
        if not directory.is_dir() and preset_name(name_or_path) in PRESETS:
            directory = download_model(preset_name(name_or_path))
        config = GLMConfig.from_pretrained(str(directory), **overrides)
        if dtype is None and paddle.get_device() == "cpu":
            config.dtype = "float32"
        with _without_initialisation():
            model = _build(cls, config)
        model.load_checkpoint(directory)
        return model

    def load_checkpoint(self, directory: str | Path) -> None:
        """Replaces the weights by a directory's, tensor by tensor.

        Raises:
            GLMError: as `from_pretrained`; the model is then partly loaded and must not be used.
        """
        checkpoint = open_checkpoint(directory)
        parameters = self.state_dict()
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        found = {}
        for name, array in checkpoint.tensors(self.config):
            found[name] = SimpleNamespace(shape=array.shape)
            if shapes.get(name) == array.shape:
                set_parameter(parameters[name], array)
        check_state(found, shapes, checkpoint.source)

    def cast(self, dtype: str):
        """Changes the dtype of all weights in place, and returns the model."""
        self.to(dtype=dtype)
        self.config.dtype = dtype
        return self

    def save_pretrained(self, save_directory: str | Path, *, weight_format: str = "safetensors", **kwargs) -> None:
        """Writes weights and config.json, each whole or not at all.

        Args:
            save_directory: created where it is missing.
            weight_format: `safetensors` (model.safetensors) or `pdparams` (model_state.pdparams).
            kwargs: what PaddleNLP's Trainer passes besides (`is_main_process` and others).
        """
        if not kwargs.get("is_main_process", True):
            return
        state = {name: as_numpy(parameter) for name, parameter in self.state_dict().items()}
        save_state(save_directory, state, self.config, weight_format=weight_format)
        self.config.save_pretrained(save_directory)


def set_parameter(parameter: paddle.Tensor, array: np.ndarray) -> None:
    """Copies an array of any float dtype into a parameter, in the parameter's dtype."""
    if parameter.dtype == paddle.bfloat16:
        array = array.astype(ml_dtypes.bfloat16).view(np.uint16)
    elif parameter.dtype == paddle.float16:
        array = array.astype(np.float16)
    else:
        array = array.astype(np.float32)
    parameter.set_value(array)


def as_numpy(parameter: paddle.Tensor) -> np.ndarray:
    """A parameter as an array, bfloat16 included."""
    array = parameter.numpy()
    return array.view(ml_dtypes.bfloat16) if parameter.dtype == paddle.bfloat16 else array


def _build(cls, config: GLMConfig) -> nn.Layer:
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(config.dtype)
    try:
        # Optimizer states are saved under parameters' names, so a process's second model is named as its first.
        with unique_name.guard():
            return cls(config)
    finally:
        paddle.set_default_dtype(before)


@contextmanager
def _own_random_numbers():
    """An untrained preset is the same model in every process, so that an adapter trained on it still fits later."""
    before = paddle.get_rng_state()
    paddle.seed(PRESET_SEED)
    try:
        yield
    finally:
        paddle.set_rng_state(before)


@contextmanager
def _without_initialisation():
    """Parameters start as zeros, which costs no time worth mentioning, because a checkpoint replaces them."""
    from paddlenlp.transformers.model_utils import no_init_weights

    nn.initializer.set_global_initializer(nn.initializer.Constant(0.0), nn.initializer.Constant(0.0))
    try:
        with no_init_weights(_enable=True):
            yield
    finally:
        nn.initializer.set_global_initializer(None)
