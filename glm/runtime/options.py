"""What a backend has to know to load a graph."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RuntimeOptions:
    """A graph's files and where it runs.

    Attributes:
        model_file, params_file: the graph, and its weights (ONNX Runtime finds them itself).
        device: cpu, gpu or npu, and its number.
        cpu_threads: threads of the CPU's matmuls.
        capacity: longest max_length of a step graph's cache: the model's positions.
        use_fp16: half precision on a GPU or NPU.
        gives_columns: whether an ONNX graph gives new keys and values back, and does not write them itself.
    """

    model_file: Path
    params_file: Path
    device: str = "cpu"
    device_id: int = 0
    cpu_threads: int = 1
    capacity: int = 0
    use_fp16: bool = False
    gives_columns: bool = False
