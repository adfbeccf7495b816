"""`from_pretrained` and `save_pretrained` of the models: the checkpoint room's door to Paddle."""

import logging
from pathlib import Path
from types import SimpleNamespace

import paddle
from paddle import nn
from paddle.utils import unique_name

from glm.checkpoint.file_names import PREDICTOR_NAME, weight_names
from glm.checkpoint.predictor import copy_predictor, has_predictor
from glm.checkpoint.read import check_state, open_checkpoint
from glm.checkpoint.write import assign_weights, finish_shards, save_index, save_part, save_shard, save_state
from glm.config.glm_config import GLMConfig
from glm.config.hub import download_model
from glm.config.presets import PRESETS, UNTRAINED_PRESETS, bundled_tokenizer, is_directory, preset_name
from glm.device.probe import usable_dtype
from glm.distributed.expert_parallel import ExpertRanks
from glm.distributed.plan import shard_to_save
from glm.distributed.tensor_parallel import Ranks, tensor_parallel
from glm.model.init import seeded, without_initialisation
from glm.model.parameters import as_numpy, full_shape, full_weight, set_parameter

logger = logging.getLogger(__name__)
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
            overrides: fields of `GLMConfig` to change. tensor_parallel_degree and tensor_parallel_rank are this
                process's unless given, and its part of the weights is read; of experts those of
                expert_parallel_degree and expert_parallel_rank.

        Raises:
            GLMError: nothing there, a damaged or foreign file, weights that do not fit the config.json.
        """
        name_or_path = str(name_or_path)
        overrides = tensor_parallel() | overrides | ({"dtype": dtype} if dtype else {})
        if from_scratch:
            return _build(cls, GLMConfig.from_pretrained(name_or_path, **overrides))
        if not is_directory(name_or_path) and preset_name(name_or_path) in UNTRAINED_PRESETS:
            # The same model in every process, so that an adapter trained on it still fits later.
            with seeded(PRESET_SEED):
                model = _build(cls, GLMConfig.from_pretrained(name_or_path, **overrides | {"dtype": "float32"}))
            model.source_directory = bundled_tokenizer(name_or_path)
            return model.cast(overrides.get("dtype", "float32"))
        directory = Path(name_or_path)
        if not is_directory(directory) and preset_name(name_or_path) in PRESETS:
            directory = download_model(preset_name(name_or_path))
        config = GLMConfig.from_pretrained(str(directory), **overrides)
        if dtype is None:
            config.dtype = usable_dtype(paddle.get_device(), config.dtype)
        if warning := config.dtype_warning():
            logger.warning("%s: %s", name_or_path, warning)
        with without_initialisation():
            model = _build(cls, config)
        model.load_checkpoint(directory)
        model.source_directory = directory
        return model

    def load_checkpoint(self, directory: str | Path) -> None:
        """Replaces the weights by a directory's, tensor by tensor.

        Raises:
            GLMError: as `from_pretrained`; the model is then partly loaded and must not be used.
        """
        checkpoint, config = open_checkpoint(directory), self.config
        parameters = self.state_dict()
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        found = {}
        own = {"rank": config.tensor_parallel_rank, "degree": config.tensor_parallel_degree}
        own |= {"kv_replicas": config.kv_replicas, "experts": config.own_experts}
        for name, array in checkpoint.tensors(config, **own):
            found[name] = SimpleNamespace(shape=array.shape)
            if shapes.get(name) == array.shape:
                set_parameter(parameters[name], array)
        check_state(found, shapes, checkpoint.source)

    def cast(self, dtype: str):
        """Changes the dtype of all weights in place, and returns the model."""
        self.to(dtype=dtype)
        self.config.dtype = dtype
        return self

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        weight_format: str = "safetensors",
        merge_tensor_parallel: bool = False,
        is_main_process: bool = True,
        **kwargs,
    ) -> None:
        """Writes weights and config.json, each file whole or not at all. All ranks that share the weights must call it.

        Args:
            save_directory: created where it is missing.
            weight_format: `safetensors`: model.safetensors, or with several ranks, each of which writes a part of the
                whole weights, model-0000K-of-0000N.safetensors and an index. `pdparams`: model_state.pdparams, or with
                several tensor-parallel ranks, each of which writes what it holds, model_state.tpNN.pdparams.
            merge_tensor_parallel: one file, although there are several ranks.
            is_main_process: whether this process writes what only one may write.
            kwargs: what PaddleNLP's Trainer passes besides.
        """
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        shards = 1
        kept = self._keep_predictor(directory, weight_format, is_main_process)
        if (
            self.sharers.degree == 1
            or merge_tensor_parallel
            or (weight_format == "pdparams" and self.ranks.degree == 1)
        ):
            self._save_whole(directory, weight_format, is_main_process)
        elif weight_format == "pdparams":
            self._save_shard(directory)
            shards = self.ranks.degree
        else:
            self._save_part(directory)
        if is_main_process:
            promised = self.config.num_nextn_predict_layers > 0 and not kept
            config = self.config.changed(num_nextn_predict_layers=0) if promised else self.config
            config.save_pretrained(directory, shards=shards)

    def _keep_predictor(self, directory: Path, weight_format: str, writes: bool) -> bool:
        """Layers that predict a token more are no part of this model: they go along from where it was read.

        Returns:
            Whether the directory has them.
        """
        source, layers = getattr(self, "source_directory", None), self.config.num_nextn_predict_layers
        there = layers > 0 and source is not None and bool(weight_names(source)) and has_predictor(source, self.config)
        if there and weight_format != "safetensors":
            logger.warning(
                "%s: the %d layer(s) of %s that predict a token more (MTP) are left out: weight_format safetensors, or "
                "convert_checkpoint.py, keeps them",
                *(directory, layers, source),
            )
            there = False
        if there and writes:
            copy_predictor(source, directory, self.config)
        elif writes:
            (directory / PREDICTOR_NAME).unlink(missing_ok=True)
        return there

    def _save_whole(self, directory: Path, weight_format: str, writes: bool) -> None:
        state = {}
        for name, parameter in self.state_dict().items():
            array = full_weight(name, parameter, self.config)
            state |= {name: array} if writes else {}
        if writes:
            save_state(directory, state, self.config, weight_format=weight_format)

    def _save_shard(self, directory: Path) -> None:
        rank, degree = self.ranks.rank, self.ranks.degree
        copies = self.config.kv_replicas
        state = {name: shard_to_save(name, as_numpy(p), rank, copies) for name, p in self.state_dict().items()}
        save_shard(directory, state, self.config, rank=rank, degree=degree)
        self.ranks.barrier()
        if rank == 0:
            finish_shards(directory, degree=degree)

    @property
    def sharers(self) -> Ranks | ExpertRanks:
        """The ranks that have a part of this model each."""
        experts = ExpertRanks(self.config)
        return experts if experts.degree > 1 else self.ranks

    def _save_part(self, directory: Path) -> None:
        rank, degree, parameters = self.sharers.rank, self.sharers.degree, self.state_dict()
        shapes = {name: tuple(full_shape(name, p, self.config)) for name, p in parameters.items()}
        writer = assign_weights(shapes, self.config, degree)
        state = {}
        for name, parameter in parameters.items():
            array = full_weight(name, parameter, self.config)
            state |= {name: array} if writer[name] == rank else {}
        save_part(directory, state, self.config, part=rank, parts=degree)
        self.sharers.barrier()
        if rank == 0:
            save_index(directory, self.config, parts=degree)


def _build(cls, config: GLMConfig) -> nn.Layer:
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(config.dtype)
    try:
        # Master weights are named after a counter of the process (glm/training/optimizer_state.py): start it anew.
        with unique_name.guard():
            return cls(config)
    finally:
        paddle.set_default_dtype(before)
