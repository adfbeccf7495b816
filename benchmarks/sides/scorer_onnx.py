"""This project: the scorer of a test's questions over a step graph in ONNX Runtime."""

from benchmarks.settings import Task
from benchmarks.side import Place
from benchmarks.sides import scorer
from glm.device.tuning import usable_cores
from glm.evaluation.likelihood.export import ExportScorer, export_scorer
from glm.runtime.onnx_step import OnnxStepRuntime


class Side(scorer.Side):
    """See `benchmarks.side`."""

    def open(self, place: Place) -> None:
        file = place.directory / f"onnx-{place.side.weights}" / "glm.onnx"
        self.runtime = OnnxStepRuntime(file, place.shape.shots + place.shape.question + 1, usable_cores())

    def scorer(self, task: Task) -> ExportScorer:
        return export_scorer(self.runtime, self.processor, reuse=self.reuse)
