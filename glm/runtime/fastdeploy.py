"""FastDeploy's C++ runtime (1.x), where a real FastDeploy is installed."""

import numpy as np

from glm.errors import GLMError
from glm.runtime.options import RuntimeOptions

INSTALL = "https://www.paddlepaddle.org.cn/whl/fastdeploy.html"


class FastDeployRuntime:
    """A graph in fastdeploy.Runtime with the Paddle Inference backend."""

    def __init__(self, options: RuntimeOptions):
        fastdeploy = _import_fastdeploy()
        option = fastdeploy.RuntimeOption()
        option.set_model_path(str(options.model_file), str(options.params_file))
        DEVICES[options.device](option, options)
        option.use_paddle_infer_backend()
        self._runtime = fastdeploy.Runtime(option)
        self._names = [self._runtime.get_input_info(i).name for i in range(self._runtime.num_inputs())]
        self.inputs = frozenset(self._names)

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self._runtime.infer({name: np.asarray(feeds[name], order="C") for name in self._names})


def _use_cpu(option, options: RuntimeOptions) -> None:
    option.use_cpu()
    option.set_cpu_thread_num(options.cpu_threads)


DEVICES = {
    "cpu": _use_cpu,
    "gpu": lambda option, options: option.use_gpu(options.device_id),
    "npu": lambda option, options: option.use_ascend(),
}


def _import_fastdeploy():
    """The fastdeploy module, if it is the real one: PyPI's package of that name is only a downloader."""
    try:
        import fastdeploy
    except ImportError as error:
        raise GLMError(
            f"backend fastdeploy is not installed ({error}): install a wheel of {INSTALL}, or use --backend paddle"
        ) from None
    if not hasattr(fastdeploy, "RuntimeOption"):
        version = getattr(fastdeploy, "__version__", "of unknown version")
        raise GLMError(
            f"the installed fastdeploy ({version}) has no RuntimeOption: PyPI's package is only a downloader; "
            f"install a wheel of {INSTALL}, or use --backend paddle"
        )
    return fastdeploy
