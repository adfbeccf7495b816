"""Generation with an exported model: what infer_generation.py runs. Imports neither PaddleNLP nor the model."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from glm.device.choice import check_dtype
from glm.encoding.processor import Processor, open_processor
from glm.engine import Constraint, Engine, EngineOptions, Request, StopStrings, StopTokens
from glm.errors import GLMError, UsageError
from glm.evaluation.likelihood.export import ExportScorer, export_scorer
from glm.export.files import STEP_GRAPH, Manifest, exported_formats, read_manifest, start_check
from glm.files.sizes import in_words
from glm.generation.options import GenerationConfig, control_arrays
from glm.inference.conversation import Conversation
from glm.inference.generator import Ids, TextGenerator, in_batches, require_finite
from glm.inference.guide import Guide
from glm.runtime import BACKENDS, Choice, LoopRuntime, RuntimeOptions, StepRuntime, choose

MOST_THREADS = 4096
QUANTIZED = ("int8", "int4")  # of `Manifest.weights`
CACHE_SHARE = 0.8  # of the memory that is free, the key/value cache takes at most so much


class LoopGenerator(TextGenerator):
    """A full-loop graph.

    Args:
        runtime: where it is loaded.
        processor, stop_strings: see `TextGenerator`.
        require_whole: raises where the export is not what was written; called before anything is shown.
    """

    def __init__(
        self,
        runtime: LoopRuntime,
        processor: Processor,
        stop_strings: Sequence[str] = (),
        require_whole: Callable[[], None] = lambda: None,
    ):
        super().__init__(processor, stop_strings)
        self.runtime, self._require_whole = runtime, require_whole

    def results(self, prompts: Sequence[Ids], config: GenerationConfig, batch_size: int) -> Iterator[tuple[int, Ids]]:
        refuse_newer_options(config, self.runtime.inputs)
        control = control_arrays(config)

        def write(some: Sequence[Ids]) -> list[list[int]]:
            ids, scores = self.runtime.run(self.processor.prompt_batch(some) | control)
            self._require_whole()
            require_finite(scores)
            return ids.tolist()

        return in_batches(prompts, batch_size, write, self.processor.stop_token_ids)

    def stream_tokens(self, ids: Ids, config: GenerationConfig) -> Iterator[int]:
        """Raises UsageError: the graph shows nothing before its end."""
        raise UsageError("a full-loop graph shows nothing before its end")

    def scorer(self, batch_size: int = 8, *, reuse: bool = True) -> ExportScorer:
        """Raises UsageError: the graph gives texts alone."""
        raise UsageError("a full-loop graph gives texts and no log-likelihoods: open the export with `scores`")


def refuse_newer_options(config: GenerationConfig, inputs: Set[str]) -> None:
    """Raises UsageError for an option that a graph does not take, for it was exported before there was one.

    Args:
        inputs: of a full-loop graph.
    """
    lacking = set(control_arrays(config)) - inputs
    neutral = GenerationConfig(config.max_length)
    asked = sorted(name for name in lacking if getattr(config, name) != getattr(neutral, name))
    if not asked and lacking and config.do_sample and config.top_k and 0 < config.top_p < 1:
        asked = ["top_k together with top_p"]  # such graphs take the nucleus before top_k
    if asked:
        raise UsageError(
            f"this export was made before {asked[0]} was an option: export the model again, or leave it out"
        )


class EngineGenerator(TextGenerator):
    """A decoder step graph, and the engine that generates with it.

    Args:
        runtime: where it is loaded.
        processor, stop_strings: see `TextGenerator`.
        options: of the engine.
        require_whole: see `LoopGenerator`.
        response_format: what every text is held to (glm/inference/guide.py), None for nothing.
    """

    def __init__(
        self,
        runtime: StepRuntime,
        processor: Processor,
        stop_strings: Sequence[str] = (),
        options: EngineOptions | None = None,
        require_whole: Callable[[], None] = lambda: None,
        response_format: Mapping[str, Any] | None = None,
    ):
        super().__init__(processor, stop_strings)
        self.engine = Engine(runtime, processor.positions, StopTokens.of(processor), options)
        self._require_whole = require_whole
        self._guide = Guide(processor, runtime.vocab_size, response_format) if response_format else None

    def results(self, prompts: Sequence[Ids], config: GenerationConfig, batch_size: int) -> Iterator[tuple[int, Ids]]:
        requests = [Request(ids, config, self._watch(config), constraint=self._constraint(ids)) for ids in prompts]
        events = self.engine.run(requests, batch_size)
        for index, tokens in self._of_whole((event.id, event.result.tokens) for event in events if event.result):
            self._ended(requests[index].constraint)
            yield index, tokens

    def stream_tokens(self, ids: Ids, config: GenerationConfig) -> Iterator[int]:
        constraint = self._constraint(ids)
        try:
            yield from self._of_whole(self.engine.stream(ids, config, constraint=constraint))
        finally:
            self._ended(constraint)

    def scorer(self, batch_size: int = 8, *, reuse: bool = True) -> ExportScorer:
        """Rows go through the graph one by one, whatever the batch size."""
        return export_scorer(self.engine.runtime, self.processor, reuse=reuse, require_whole=self._require_whole)

    def conversation(self, config: GenerationConfig, system: str | None = None) -> Conversation:
        # Verify first, or corruption would be reported as a turn that is too long.
        self._require_whole()
        return super().conversation(config, system)

    def notes(self) -> str:
        stats = self.engine.core.stats()
        notes = f"key/value cache {in_words(stats.cache_bytes)}"
        if stats.reused_tokens:
            notes += f", which held {stats.reused_tokens:,} of {stats.prompt_tokens:,} prompt tokens already"
        if stats.drafts:
            right = f"{stats.accepted_tokens:,} of {stats.draft_tokens:,} guessed tokens right"
            notes += f"; prompt lookup: {right}, in {stats.drafts:,} calls of the graph"
        return f"{notes}\n{self._guide.notes()}".strip() if self._guide else notes

    def _of_whole(self, found: Iterator[Any]) -> Iterator[Any]:
        """What is shown, from the first of it on known to be the whole export's; where that is damaged, it is why."""
        try:
            first = list(islice(found, 1))
        except GLMError:
            self._require_whole()
            raise
        self._require_whole()
        yield from first
        yield from found

    def _constraint(self, prompt: Ids) -> Constraint | None:
        return self._guide.constraint(prompt) if self._guide else None

    def _ended(self, constraint: Constraint | None) -> None:
        if self._guide and constraint:
            self._guide.ended(constraint)

    def _watch(self, config: GenerationConfig) -> StopStrings | None:
        """What ends a text early; of beams the one that wins is cut at its end."""
        if not self.stop_strings or config.num_beams > 1:
            return None
        return StopStrings(self.processor.tokenizer, self.stop_strings)


@dataclass(frozen=True)
class ExportOptions:
    """An export, and how it is to be run.

    Attributes:
        path, prefix: directory of the export, and its name there.
        backend: key of `BACKENDS`; the fastest that the export and this machine allow, if not given.
        device, device_id: npu, gpu or cpu, with a number or without; the best one present, if not given.
        use_fp16: half precision, on GPU and NPU.
        cpu_threads: of the CPU's matmuls; 0 is one per core.
        lengths: most tokens of a source and of a generated text; what the kind of model says, where None.
        max_length: most tokens of both together.
        kv_cache_size: most bytes of key/value cache; a share of the memory that is free, if not given.
        streams: whether texts are to be seen before their end, as `stream` and `conversation` show them.
        prompt_lookup: most tokens that are guessed at once (`EngineOptions.prompt_lookup`).
        scores: whether log-likelihoods are asked for (`TextGenerator.scorer`).
        stop_strings: see `TextGenerator`.
        no_block_position, plain: see `Processor`.
        response_format: OpenAI's, None for any text.
    """

    path: Path
    prefix: str = "glm"
    backend: str | None = None
    device: str | None = None
    device_id: int = 0
    use_fp16: bool = False
    cpu_threads: int = 0
    lengths: tuple[int | None, int | None] = (None, None)
    max_length: int | None = None
    kv_cache_size: int | None = None
    prompt_lookup: int = 0
    streams: bool = False
    scores: bool = False
    stop_strings: Sequence[str] = ()
    no_block_position: bool = False
    plain: bool = False
    response_format: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class FoundExport:
    """An export of which the manifest was read, and what is to run it.

    Attributes:
        wanted: what was asked for. choice: backend and device.
    """

    wanted: ExportOptions
    choice: Choice
    manifest: Manifest

    def processor(self) -> Processor:
        """The processor, which fits the graph.

        Raises:
            GLMError: tokenizer files that are missing or damaged, or lengths that do not fit.
        """
        processor = _processor(self.wanted)
        processor.check_fits(self.manifest.vocab_size, self.manifest.max_position)
        return processor

    def options(self, processor: Processor) -> RuntimeOptions:
        """How its graphs are opened. Raises GLMError where the device cannot run them."""
        options = _runtime_options(self.wanted, self.manifest, self.choice.device)
        return replace(options, capacity=processor.positions.columns(self.manifest.max_position))

    def open_step(self, processor: Processor) -> StepRuntime:
        """Loads the decoder step graph. Raises GLMError: there is none, or it cannot be loaded."""
        files = _step_files(self.options(processor), self.manifest, self.wanted.prefix)
        return self.choice.backend.open_step(files)

    @property
    def cache_limit(self) -> int | None:
        """Bytes of key/value cache: what the user allows, else a share of the memory that is free."""
        return _cache_limit(self.wanted.kv_cache_size)


def find_export(wanted: ExportOptions) -> FoundExport:
    """Reads the manifest of an export, and chooses what runs it. No file is compared with its checksum yet.

    Raises:
        GLMError: files that are missing, or a backend that is not installed.
    """
    if not 0 <= wanted.cpu_threads <= MOST_THREADS:
        raise UsageError(
            f"cpu_threads is {wanted.cpu_threads}, and must be between 1 and {MOST_THREADS}, or 0 for one per core"
        )
    # What is wrong with the directory is said by read_manifest.
    formats = exported_formats(wanted.path, wanted.prefix) or [BACKENDS[wanted.backend or "paddle"].format]
    choice = choose(wanted.backend, _device(wanted), formats)
    manifest = read_manifest(wanted.path, wanted.prefix, choice.backend.format)
    if choice.backend.standard and manifest.opset is None:
        raise GLMError(
            f"backend {choice.name} knows standard operators alone, and {wanted.path / wanted.prefix}.onnx has ONNX "
            "Runtime's own: export with --format onnx --opset 17, or use --backend onnx_runtime"
        )
    if manifest.weights in QUANTIZED:
        choice = replace(choice, reason=f"{choice.reason}; {manifest.weights} weights")
    return FoundExport(wanted, choice, manifest)


def open_export(wanted: ExportOptions) -> tuple[TextGenerator, Choice]:
    """Loads an export, and says what runs it.

    Raises:
        GLMError: files that are missing or damaged, a backend that is not installed, a device without the dtype.
    """
    found = find_export(wanted)
    choice, require_whole = found.choice, start_check(wanted.path, found.manifest).result
    processor = found.processor()
    if choice.backend.loop and not _needs_steps(wanted):
        for flag, given in (
            ("--kv_cache_size", wanted.kv_cache_size is not None),
            ("--prompt_lookup", wanted.prompt_lookup),
        ):
            if given:
                raise UsageError(
                    f"{flag} is for decoder step graphs, and {choice.name} runs the full loop "
                    "as one graph: leave it out, or add --stream"
                )
        runtime = choice.backend.open_loop(found.options(processor))
        return LoopGenerator(runtime, processor, wanted.stop_strings, require_whole), choice
    runtime = found.open_step(processor)
    limits = EngineOptions(memory_limit=found.cache_limit, prompt_lookup=wanted.prompt_lookup, scores=False)
    stops, response_format = wanted.stop_strings, wanted.response_format
    return EngineGenerator(runtime, processor, stops, limits, require_whole, response_format), choice


def _needs_steps(wanted: ExportOptions) -> bool:
    """Whether text has to be seen, or held to JSON, before its end, or what is known of each token."""
    return wanted.streams or wanted.scores or wanted.response_format is not None


def _device(wanted: ExportOptions) -> str | None:
    """`npu:1`, of npu and 1 as well."""
    device, number = wanted.device, wanted.device_id
    return f"{device}:{number}" if device and number and device != "cpu" and ":" not in device else device


def _runtime_options(wanted: ExportOptions, manifest: Manifest, device: str) -> RuntimeOptions:
    """Options for the full-loop graph, when the device can run it."""
    kind, _, number = device.partition(":")
    check_dtype("fp16" if wanted.use_fp16 else None, device, "the flag")
    check_dtype(manifest.dtype, device, "a graph exported in")
    if kind == "npu":
        from glm.device.probe import require_dtype  # imports Paddle

        require_dtype(device if number else f"{device}:{wanted.device_id}", manifest.dtype, "a graph exported in")
    prefix = wanted.path / wanted.prefix
    return RuntimeOptions(
        model_file=prefix.with_name(f"{prefix.name}.json"),
        params_file=prefix.with_name(f"{prefix.name}.pdiparams"),
        device=kind,
        device_id=int(number or wanted.device_id),
        cpu_threads=wanted.cpu_threads,
        use_fp16=wanted.use_fp16,
    )


def _step_files(options: RuntimeOptions, manifest: Manifest, name: str) -> RuntimeOptions:
    """The same for the decoder step graph; it may share the weights of the other one."""
    directory = options.model_file.parent
    if (graph := f"{name}{STEP_GRAPH[manifest.format]}") not in manifest.files:
        raise GLMError(f"{directory / graph} is not in the export's manifest: export the model again")
    own = f"{name}.step.pdiparams"
    return replace(
        options,
        model_file=directory / graph,
        params_file=directory / own if own in manifest.files else options.params_file,
        gives_columns=manifest.gives_columns or manifest.opset is not None,
    )


def _processor(wanted: ExportOptions) -> Processor:
    """The processor of the export, with room for source and text in `max_length`.

    A tgt_length that was left open becomes half of it, at most, as `check_fits` does for a small model.
    """
    options = {"no_block_position": wanted.no_block_position, "plain": wanted.plain}
    processor = open_processor(wanted.path, wanted.lengths, **options)
    if wanted.max_length is None:
        return processor
    if "tgt_length" in processor.unset_lengths:
        processor.tgt_length = max(1, min(processor.tgt_length, wanted.max_length // 2))
    room = wanted.max_length - processor.tgt_length
    if room < 4:
        raise UsageError(
            f"max_length {wanted.max_length} leaves {max(room, 0)} tokens for the source beside tgt_length "
            f"{processor.tgt_length}, and at least 4 are needed: raise --max_length or lower --tgt_length"
        )
    processor.src_length = min(processor.src_length, room)
    return processor


def _cache_limit(wanted: int | None) -> int | None:
    """Bytes of key/value cache: what the user allows, else a share of the memory that is free."""
    if wanted is not None:
        return wanted
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.is_file() else None
    return int(CACHE_SHARE * 1024 * int(found[1])) if found else None
