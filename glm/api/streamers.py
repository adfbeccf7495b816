"""What `generate(streamer=…)` feeds. Imports no framework."""

from __future__ import annotations

from glm.errors import UsageError
from glm.tokenizers.batch_encoding import as_lists
from glm.tokenizers.stream import StreamDecoder


class TextStreamer:
    """Prints a text while it is generated, whole characters at a time.

    Args:
        tokenizer: of the model.
        skip_prompt, skip_special_tokens: True, as in both libraries: `generate` gives new tokens alone.

    Subclasses take the pieces elsewhere: `on_finalized_text(piece, stream_end)`.
    """

    def __init__(self, tokenizer, skip_prompt: bool = True, skip_special_tokens: bool = True):
        if not skip_prompt or not skip_special_tokens:
            raise UsageError("a TextStreamer shows neither the prompt nor special tokens: leave these options out")
        self._decoder = StreamDecoder(tokenizer)

    def put(self, value) -> None:
        """Takes the next token of one text, [1, 1] or [1]. Raises UsageError for several texts."""
        ids = as_lists(value)
        ids = ids if isinstance(ids, list) else [ids]
        if len(ids) > 1 and isinstance(ids[0], list):
            raise UsageError(f"a TextStreamer shows one text, and the batch has {len(ids)}")
        for index in ids[0] if isinstance(ids[0], list) else ids:
            self.on_finalized_text(self._decoder.put(index))

    def end(self) -> None:
        """Shows what was held back, and ends the line."""
        self.on_finalized_text(self._decoder.end(), stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        print(text, end="\n" if stream_end else "", flush=True)
