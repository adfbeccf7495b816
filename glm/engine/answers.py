"""Text that appears while the engine writes it. Imports neither paddle nor paddlenlp."""

from collections.abc import Iterator, Sequence

from glm.datasets.encoding import Encoder
from glm.engine.engine import Engine
from glm.engine.stop_strings import StopStrings
from glm.generation_config import GenerationConfig


def stream_answer(
    engine: Engine, encoder: Encoder, ids: Sequence[int], config: GenerationConfig, stop_strings: Sequence[str] = ()
) -> Iterator[str]:
    """Pieces of an answer, as soon as they are certain; together what `Encoder.answer` makes of its ids.

    Args:
        encoder: the text side of the engine's model.
        ids: the prompt.
        stop_strings: what ends the answer, and is not part of it.

    Raises:
        GLMError: as `Engine.stream`, or an empty stop string.
    """
    written, shown = StopStrings(encoder.tokenizer, stop_strings), 0
    for _ in engine.stream(ids, config, written):
        text = written.text[: written.certain]
        clean = encoder.clean(text[: encoder.settled_length(text)])
        yield clean[shown:]
        shown = len(clean)
    written.end()
    yield encoder.clean(written.text)[shown:]
