"""Paddle Inference: CPU, CUDA GPU, and Ascend NPU through Paddle's custom-device plugin."""

import numpy as np
from paddle import inference

import glm
from glm.device.capabilities import GENERATION
from glm.device.paddle_reason import paddle_reason
from glm.device.probe import require, require_dtype
from glm.errors import GLMError
from glm.runtime.options import RuntimeOptions


class PaddleInferenceRuntime:
    """A graph in Paddle's C++ predictor."""

    def __init__(self, options: RuntimeOptions):
        self._predictor = open_predictor(options)
        self._inputs = {name: self._predictor.get_input_handle(name) for name in self._predictor.get_input_names()}
        self.inputs = frozenset(self._inputs)

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        for name, handle in self._inputs.items():
            handle.copy_from_cpu(np.asarray(feeds[name], order="C"))
        return run_predictor(self._predictor)


def open_predictor(options: RuntimeOptions) -> inference.Predictor:
    """Loads a graph.

    Raises:
        GLMError: a file is missing or damaged, or the device lacks something.
    """
    glm.tune_for_generation()
    config = inference.Config(str(options.model_file), str(options.params_file))
    config.disable_glog_info()
    # Measured on a decoder graph: oneDNN halves its speed, and one of its passes breaks it.
    config.disable_mkldnn()
    DEVICES[options.device](config, options)
    try:
        return inference.create_predictor(config)
    except (RuntimeError, ValueError) as error:
        raise GLMError(f"Paddle Inference cannot load {options.model_file}: {paddle_reason(error)}") from error


def run_predictor(predictor: inference.Predictor) -> list[np.ndarray]:
    """The outputs for the inputs that were given to the predictor's handles.

    Raises:
        GLMError: an operator fails.
    """
    try:
        predictor.run()
    except (RuntimeError, ValueError) as error:
        raise GLMError(f"the graph failed in Paddle Inference: {paddle_reason(error)}") from error
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


def _use_cpu(config: inference.Config, options: RuntimeOptions) -> None:
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(options.cpu_threads)


def _use_gpu(config: inference.Config, options: RuntimeOptions) -> None:
    precision = inference.PrecisionType.Half if options.use_fp16 else inference.PrecisionType.Float32
    config.enable_use_gpu(256, options.device_id, precision)


def _use_npu(config: inference.Config, options: RuntimeOptions) -> None:
    device = f"npu:{options.device_id}"
    require(device, GENERATION)
    require_dtype(device, "float16" if options.use_fp16 else None, "half precision,")
    precision = inference.PrecisionType.Half if options.use_fp16 else inference.PrecisionType.Float32
    config.enable_custom_device("npu", options.device_id, precision)


DEVICES = {"cpu": _use_cpu, "gpu": _use_gpu, "npu": _use_npu}
