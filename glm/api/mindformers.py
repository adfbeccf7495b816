"""MindFormers' way: its chat model, and what MindSpore does around it, so that its scripts run with other imports."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from glm.api.causal_lm import GLMForCausalLM
from glm.api.model_inputs import as_array
from glm.api.options import check_names
from glm.checkpoint.file_names import WEIGHT_FILES
from glm.device.choice import choose_device
from glm.errors import GLMError, UsageError

logger = logging.getLogger(__name__)
GRAPH_MODE, PYNATIVE_MODE = 0, 1  # MindSpore's numbers; here every model runs as it is called
_TARGETS = {"Ascend": "npu", "GPU": "gpu", "CPU": "cpu"}


class GLMChatModel(GLMForCausalLM):
    """`GLMForCausalLM` whose `generate` is MindFormers': lengths count the prompt, and arrays come back."""

    def generate(self, input_ids=None, generation_config=None, stopping_criteria=None, streamer=None, **options):
        """Prompts with what the model writes behind them.

        Args:
            input_ids: [B, T] or [T].
            options: of `GLMForCausalLM.generate`, but that max_length counts the prompt: the configuration's
                max_decode_length if neither it nor max_new_tokens is given, as far as the model has positions.

        Returns:
            An int32 array per prompt: the prompt's tokens, then the generated ones up to the end token.
        """
        if input_ids is None or not hasattr(input_ids, "__len__"):
            return super().generate(input_ids, generation_config, stopping_criteria, streamer, **options)
        if options.pop("trunc_input", False):
            raise UsageError("trunc_input True: the arrays of a GLMChatModel have the prompt in front")
        ids_BT = np.atleast_2d(as_array(input_ids, "input_ids"))
        ids, _ = super().generate(
            ids_BT, generation_config, stopping_criteria, streamer, **self._new_tokens(ids_BT.shape[1], options)
        )
        ends = options.get("eos_token_id")
        if ends is None:
            ends = self._generation_file().eos_token_ids or self._generation_defaults().stop_token_ids
        ends = as_array(ends, "eos_token_id").ravel()
        count = len(ids) // len(ids_BT)
        return [
            np.concatenate([ids_BT[number // count], _until(row, ends)]).astype("int32")
            for number, row in enumerate(ids.numpy())
        ]

    def _new_tokens(self, width: int, options: dict[str, Any]) -> dict[str, Any]:
        """The options with max_new_tokens for the max_length of prompt and answer."""
        total = options.pop("max_length", None)
        if options.get("max_new_tokens") is not None:
            return options
        check_names({} if total is None else {"max_length": total})
        longest = self.config.max_decode_length if total is None else total
        if longest <= width:
            raise UsageError(f"max_length {longest} has no room for an answer to a prompt of {width} tokens")
        return options | {"max_new_tokens": longest - width}


def _until(row: np.ndarray, ends: np.ndarray) -> np.ndarray:
    found = np.flatnonzero(np.isin(row, ends))
    return row[: found[0] + 1] if len(found) else row


def load_checkpoint(path: str | Path, model: GLMForCausalLM) -> GLMForCausalLM:
    """Replaces a model's weights, as MindSpore's `load_checkpoint` does.

    Args:
        path: a directory that PaddleNLP, Hugging Face or this project wrote, or a file of weights in it. A tokenizer
            beside it becomes the model's.

    Raises:
        GLMError: nothing there, MindSpore's own .ckpt, or weights of another model.
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        raise GLMError(f"{path} is MindSpore's format, which is not read: give the Hugging Face directory it came from")
    directory = path.parent if path.name in WEIGHT_FILES else path
    model.load_checkpoint(directory)
    model.source_directory = directory
    model.eval()
    return model


def set_context(mode: int = PYNATIVE_MODE, device_target: str | None = None, device_id: int | None = None, **others):
    """Chooses the device as MindSpore's `set_context` does.

    Args:
        mode: GRAPH_MODE or PYNATIVE_MODE; changes nothing.
        device_target: "Ascend", "GPU" or "CPU". Where it is not there, the best device is taken, with a warning.
        device_id: its number.
        others: of MindSpore; change nothing.

    Raises:
        UsageError: another device_target or mode.
    """
    import paddle

    if mode not in (GRAPH_MODE, PYNATIVE_MODE):
        raise UsageError(f"mode is {mode!r}, and must be GRAPH_MODE or PYNATIVE_MODE")
    if device_target is not None and device_target not in _TARGETS:
        raise UsageError(f"device_target is {device_target!r}, and must be one of {', '.join(_TARGETS)}")
    kind = _TARGETS.get(device_target)
    wanted = kind if kind in (None, "cpu") or device_id is None else f"{kind}:{device_id}"
    try:
        device = choose_device(wanted)
    except UsageError as error:
        device = choose_device()
        logger.warning("%s: taking %s", error, device)
    paddle.set_device(device)


def transform_checkpoints(
    src_checkpoints_dir: str | Path,
    dst_checkpoints_dir: str | Path,
    ckpt_prefix: str = "checkpoint_",
    src_strategy_file: str | None = None,
    dst_strategy_file: str | None = None,
) -> None:
    """Makes one checkpoint of tensor-parallel files, as MindSpore's function of that name does.

    Args:
        src_checkpoints_dir: a model's directory; how its files share the weights is read off them.
        dst_checkpoints_dir: directory to write.
        ckpt_prefix, src_strategy_file: MindSpore's; change nothing.
        dst_strategy_file: None, for whole weights; convert_checkpoint.py divides.

    Raises:
        GLMError: as `glm.checkpoint.convert.convert_checkpoint`.
    """
    from glm.checkpoint.conversion import Conversion
    from glm.checkpoint.convert import convert_checkpoint

    if dst_strategy_file is not None:
        raise UsageError("dst_strategy_file must be None: convert_checkpoint.py --tensor_parallel_degree divides")
    convert_checkpoint(Conversion(Path(src_checkpoints_dir), Path(dst_checkpoints_dir), "paddle"))
