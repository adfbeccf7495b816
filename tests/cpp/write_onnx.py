"""An ONNX export, as export_generation_model.py writes it."""

from pathlib import Path


def write_export(model: Path, folder: Path, weights: str = "fp32", opset: int | None = None) -> None:
    from glm.api.loading import load_processor, model_source, stream_weights
    from glm.export.onnx.weights import weights_of
    from glm.export.onnx.write import export_step_graph
    from glm.export.writing import write_side_files

    config, tensors = stream_weights(str(model), None)
    processor = load_processor(str(model))
    export_step_graph(
        config,
        tensors,
        weights_of(weights, opset=opset),
        folder / "glm",
        source=model_source(str(model), None),
        text=lambda directory: write_side_files(config, processor, directory),
    )
