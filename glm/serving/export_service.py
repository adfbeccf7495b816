"""An export as a service: its tokenizer on the HTTP side, its graph in the engine's process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from glm.engine import Constraint, EngineCore, EngineOptions, StopTokens
from glm.engine.guided import Grammars
from glm.errors import UsageError
from glm.export.files import manifest_suffix, start_check
from glm.inference.exported import ExportOptions, find_export
from glm.runtime import StepRuntime
from glm.serving.engine_client import EngineClient
from glm.serving.jobs import EngineInfo, OpenedEngine
from glm.serving.served_model import ServedModel, export_fingerprint
from glm.serving.service import Service, Settings

DEFAULT_ROWS = 8
_LEAST = {
    "rows": ("--max_num_seqs", 1),
    "max_length": ("--max_model_len", 1),
    "max_queue": ("--max_queue", 0),
    "prompt_lookup": ("--prompt_lookup", 0),
}
PAUSE = 0.12  # seconds that a part of a prompt may hold up the texts that are being written


@dataclass(frozen=True)
class ServeOptions:
    """An export, and how it is to be served.

    Attributes:
        export: what is opened, and on what.
        names: what requests call the model; its prefix where there are none.
        rows: most texts that decode together; 8, or what fits, if not given.
        max_length: most tokens of a prompt and its text; the model's, or what fits, if not given.
        reuse_prefix: see `EngineOptions`.
        fixed_chunks: prompts are read in parts of one size, whatever they take.
        prompt_lookup: see `EngineOptions`.
        max_queue: see `EngineClient`.
        enable_thinking: what a request that says nothing asks for; what the chat template does, if not given.
    """

    export: ExportOptions
    names: tuple[str, ...] = ()
    rows: int | None = None
    max_length: int | None = None
    reuse_prefix: bool = True
    fixed_chunks: bool = False
    prompt_lookup: int = 0
    max_queue: int = 256
    enable_thinking: bool | None = None

    def __post_init__(self):
        for name, (flag, least) in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{flag} is {value}, and must be at least {least}")


@dataclass(frozen=True)
class ExportEngine:
    """Opens the engine of an export; it can be sent to a process."""

    options: ServeOptions

    def __call__(self) -> OpenedEngine:
        """Raises GLMError: files that are missing or damaged, a backend that is not installed, too little memory."""
        options, found = self.options, find_export(self.options.export)
        check = start_check(options.export.path, found.manifest)
        processor = found.processor()
        runtime = found.open_step(processor)
        limit = found.cache_limit  # of the memory that is free now; the columns must fit the engine's own limit
        core = EngineCore(runtime, processor.positions, StopTokens.of(processor), self._engine_options(limit))
        columns = fitting_columns(runtime, options.max_length, limit)
        core.reserve(options.rows or DEFAULT_ROWS, columns)
        check.result()
        kept = core.slots.cache
        info = EngineInfo(str(found.choice), kept.slots, kept.max_length, core.slots.bytes)

        @cache
        def grammars() -> Grammars:
            """When they are first asked for: some vocabularies cannot write JSON."""
            return Grammars(processor.tokenizer, processor.stop_token_ids, runtime.vocab_size)

        def constrain(grammar: str) -> Constraint:
            return grammars().constraint(grammar)

        return OpenedEngine(core, processor.tokenizer, info, constrain)

    def _engine_options(self, limit: int | None) -> EngineOptions:
        return EngineOptions(
            memory_limit=limit,
            reuse_prefix=self.options.reuse_prefix,
            interleave=True,
            pause=None if self.options.fixed_chunks else PAUSE,
            prompt_lookup=self.options.prompt_lookup,
            scores=False,
        )


def fitting_columns(runtime: StepRuntime, wanted: int | None, limit: int | None) -> int:
    """Most tokens of a text: what is asked for, else all that the model or the memory allows one text.

    Raises:
        UsageError: more than the model has.
    """
    if wanted is not None:
        if wanted > runtime.capacity:
            raise UsageError(f"--max_model_len is {wanted:,}, and the model ends at {runtime.capacity:,} tokens")
        return wanted
    whole = runtime.cache_bytes(1, runtime.capacity)
    return runtime.capacity if limit is None or whole <= limit else max(1, runtime.capacity * limit // whole)


def open_service(options: ServeOptions, settings: Settings, in_thread: bool = False) -> Service:
    """A service of an export; its engine opens meanwhile.

    Args:
        in_thread: the engine shares this process; for tests.

    Raises:
        GLMError: files that are missing or damaged.
    """
    found = find_export(options.export)
    start_check(options.export.path, found.manifest, weights=False)
    engine = EngineClient(ExportEngine(options), options.max_queue, in_thread)
    engine.launch()
    processor = found.processor()
    processor.set_thinking(options.enable_thinking)
    manifest = found.manifest
    names = options.names or (options.export.prefix,)
    fingerprint = export_fingerprint(options.export.path / f"{options.export.prefix}{manifest_suffix(manifest.format)}")
    longest = options.max_length or processor.positions.columns(manifest.max_position)
    model = ServedModel(processor, manifest.vocab_size, names, longest, fingerprint)
    return Service(model, engine, settings)
