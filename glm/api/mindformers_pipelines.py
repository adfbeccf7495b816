"""`glm.pipeline`, and MindFormers' `TextGenerationPipeline`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glm.api import pipelines
from glm.api.auto import dtype_name
from glm.api.causal_lm import GLMForCausalLM
from glm.api.loading import AdapterPaths, check_family, load_tokenizer
from glm.api.predictor import Predictor
from glm.encoding.processor import processor_of
from glm.errors import UsageError
from glm.generation.config_json import NO_FILE, GenerationFile
from glm.inference.generator import TextGenerator
from glm.inference.model_generator import ModelGenerator

TASK = "text-generation"
MINDFORMERS_TASK = "text_generation"


class TextGenerationPipeline(pipelines.TextGenerationPipeline):
    """MindFormers' pipeline: its arguments and its result.

    Args:
        model: a `GLMForCausalLM`, or a `TextGenerator`, which has its tokenizer with it.
        tokenizer: of the model, or its directory or preset.
        batch_size: prompts that are generated together.
        options: defaults of the calls'; max_length counts the prompt, as in MindFormers.

    Example:
        >>> pipeline = TextGenerationPipeline(model, tokenizer, max_length=2048)
        >>> pipeline("你好", top_p=0.7)
        [{'text_generation_text': ['…']}]

    Raises:
        UsageError: no tokenizer, or as `glm.api.pipelines.TextGenerationPipeline`.
    """

    def __init__(self, model: Any, tokenizer: Any = None, batch_size: int = 8, **options):
        super().__init__(_generator(model, tokenizer), batch_size, **options)

    def __call__(self, prompts: pipelines.Prompts, **options) -> list[dict[str, list[str]]]:
        """Generates for a text, several texts, a conversation (a list of messages) or several.

        Returns:
            [{"text_generation_text": [text, …]}]: prompts and answers as one text each, as they were written.
        """
        rows, tokenizer = self.rows(prompts, options), self.predictor.processor.tokenizer
        return [{"text_generation_text": [tokenizer.text_of([*asked, *said]) for asked, said in rows]}]


def pipeline(
    task: str = TASK,
    model: Any = None,
    tokenizer: Any = None,
    *,
    lora_path: AdapterPaths = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    device: str | None = None,
    batch_size: int = 8,
    plain: bool = False,
    trust_remote_code: bool = False,
    **options,
) -> pipelines.TextGenerationPipeline:
    """A pipeline, as in Hugging Face's and MindFormers' libraries.

    Args:
        task: "text-generation" answers as Hugging Face's does: [{"generated_text": answer}], a dictionary per prompt;
            "text_generation" as MindFormers': [{"text_generation_text": [prompt and answer, …]}].
        model: directory of a model, or a preset; or a loaded model, with its tokenizer.
        tokenizer: of a loaded model, or instead of the one in a model's directory; or its directory or preset.
        lora_path: directory of an adapter to merge in, or several, in the order in which they are merged.
        dtype, device: the model's own, and the best one present, if not given; torch_dtype is another name of dtype.
        plain: texts are continued as they are, without a chat template.
        trust_remote_code: changes nothing.
        options: defaults of the calls.

    Example:
        >>> generate = glm.pipeline("text-generation", model="GLM-4-9B-0414")
        >>> generate("你好", max_new_tokens=64)
        [{'generated_text': '…'}]

    Raises:
        GLMError: as `Predictor.load`; an unknown task, or a model that is no name.
    """
    kinds = {TASK: pipelines.TextGenerationPipeline, MINDFORMERS_TASK: TextGenerationPipeline}
    if task not in kinds:
        raise UsageError(f"unknown task '{task}'; the one there is: {TASK}, or in MindFormers' way {MINDFORMERS_TASK}")
    if model is None:
        raise UsageError("pipeline needs model=, the directory of a model or a preset")
    pipelines.check_defaults(batch_size, options)
    if not isinstance(device, (str, type(None))):
        raise UsageError(f"device is {device!r}, and must be a name such as cpu or gpu:0")
    dtype = dtype_name(torch_dtype if dtype is None else dtype)
    named = {"lora_path": lora_path, "dtype": dtype, "device": device}
    if isinstance(model, (str, Path)):
        generator = Predictor.load(str(model), **named, plain=plain, tokenizer=tokenizer)
    elif given := [name for name, value in named.items() if value is not None]:
        raise UsageError(f"{given[0]} goes with the name of a model, and this model is loaded already")
    elif isinstance(model, TextGenerator):
        generator = model
    elif tokenizer is None:
        raise UsageError(
            f"model is a {type(model).__name__}: give a directory or a name; a loaded model has model.chat, or give "
            "its tokenizer with it"
        )
    else:
        generator = _generator(model, tokenizer, plain=plain)
    return kinds[task](generator, batch_size=batch_size, **options)


def _generator(model: Any, tokenizer: Any, **options) -> TextGenerator:
    if isinstance(model, TextGenerator):
        return model
    if tokenizer is None:
        raise UsageError("TextGenerationPipeline needs the model's tokenizer: AutoTokenizer.from_pretrained gives it")
    if not isinstance(model, GLMForCausalLM):
        raise UsageError(f"model is a {type(model).__name__}: glm.AutoModel.from_pretrained loads one")
    directory = model.source_directory
    processor = processor_of(
        load_tokenizer(tokenizer), GenerationFile.read(directory) if directory else NO_FILE, **options
    )
    check_family(processor, model.config)
    processor.check_fits(model.config.vocab_size, model.config.max_position)
    model.eval()
    return ModelGenerator(model, processor)
