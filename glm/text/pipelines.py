"""`glm.pipeline`: a model as a function from texts or conversations to generated texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from glm.chat import Message
from glm.datasets.encoding import ChatEncoder
from glm.errors import UsageError
from glm.loading import AdapterPaths
from glm.text.call_options import call_config, check_options
from glm.text.predict import Predictor

TASK = "text-generation"
Prompts = str | Sequence[str] | Sequence[Message] | Sequence[Sequence[Message]]


class TextGenerationPipeline:
    """Generates for texts, or for conversations with a chat model.

    Args:
        predictor: a model with its text side.
        batch_size: prompts that are generated together.
        options: defaults of `__call__`'s.

    Raises:
        UsageError: a batch size below 1, an unknown option, or a value of another type.
    """

    def __init__(self, predictor: Predictor, batch_size: int = 8, **options):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batch_size is {batch_size!r}, and must be at least 1")
        check_options(options)
        self.predictor, self.batch_size, self.options = predictor, batch_size, options

    def __call__(self, prompts: Prompts, **options) -> list[dict[str, str]]:
        """Generates for a text, several texts, a conversation (a list of messages) or several.

        Args:
            options: of `glm.text.call_options.call_config`. max_length counts the longest prompt of a batch.

        Returns:
            {"generated_text": …} for each, without the prompt.

        Raises:
            UsageError: no prompts, an unknown option or a value of another type, or a max_length that leaves no room.
        """
        encoder, results = self.predictor.encoder, []
        ids = [self._ids(prompt) for prompt in _listed(prompts)]
        for start in range(0, len(ids), self.batch_size):
            batch = ids[start : start + self.batch_size]
            config = call_config(encoder, self.options | options, max(map(len, batch)))
            results += [{"generated_text": encoder.answer(row)} for row in self.predictor.generate(batch, config)]
        return results

    def _ids(self, prompt: str | Sequence[Message]) -> list[int]:
        encoder = self.predictor.encoder
        if isinstance(prompt, str):
            return encoder.text_prompt(prompt)
        if not isinstance(encoder, ChatEncoder):
            raise UsageError("a GLM (2021) model holds no conversations: pass a text")
        return encoder.messages_prompt(prompt)


def pipeline(
    task: str = TASK,
    model: str | Path | None = None,
    *,
    lora_path: AdapterPaths = None,
    dtype: str | None = None,
    device: str | None = None,
    batch_size: int = 8,
    plain: bool = False,
    **options,
) -> TextGenerationPipeline:
    """A pipeline, as in Hugging Face's and MindFormers' libraries.

    Args:
        task: "text-generation".
        model: directory of a model, or a preset.
        lora_path: directory of an adapter to merge in, or several, in the order in which they are merged.
        dtype, device: the model's own, and the best one present, if not given.
        plain: texts are continued as they are, without a chat template.
        options: defaults of the calls.

    Example:
        >>> generate = glm.pipeline("text-generation", model="GLM-4-9B-0414")
        >>> generate("你好", max_new_tokens=64)
        [{'generated_text': '…'}]

    Raises:
        GLMError: as `Predictor.load`; an unknown task, or a model that is no name.
    """
    if task.replace("_", "-") != TASK:
        raise UsageError(f"unknown task '{task}'; the one there is: {TASK}")
    if model is None:
        raise UsageError("pipeline needs model=, the directory of a model or a preset")
    if not isinstance(model, (str, Path)):
        raise UsageError(
            f"model is a {type(model).__name__}: give a directory or a name; a loaded model has model.chat"
        )
    predictor = Predictor.load(str(model), lora_path, dtype=dtype, device=device, plain=plain)
    return TextGenerationPipeline(predictor, batch_size, **options)


def _listed(prompts: Prompts) -> list[str | Sequence[Message]]:
    """One prompt as a list of one. Raises UsageError where there is something else than prompts."""
    if _is_prompt(prompts):
        return [prompts]
    for each in prompts if isinstance(prompts, Sequence) else [prompts]:
        if not _is_prompt(each):
            raise UsageError(f"a prompt is {each!r:.80}: give a text, a list of messages, or a list of such prompts")
    return list(prompts)


def _is_prompt(value: object) -> bool:
    """Whether it is a text, or a conversation of at least one message."""
    if isinstance(value, str):
        return True
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(each, Mapping) for each in value)
