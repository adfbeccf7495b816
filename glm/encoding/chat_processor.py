"""The processor of conversations, thoughts and calls of tools included. Imports neither paddle nor paddlenlp."""

from collections.abc import Sequence

from glm.encoding.base import Processor
from glm.encoding.batches import BlockPositions, TextPositions
from glm.encoding.chat_formats import chat_format
from glm.encoding.chat_roles import ASSISTANT, opens_thoughts
from glm.encoding.defaults import CHAT
from glm.encoding.examples import Example, TrainingExample
from glm.encoding.messages import Message, Tools
from glm.encoding.tool_calls import ToolCallReader
from glm.errors import UsageError
from glm.generation.config_json import NO_FILE, GenerationFile

THINKING = "enable_thinking"  # the templates' variable


class ChatProcessor(Processor):
    """Encodes conversations for ChatGLM-6B and GLM-4, as their chat formats say (glm/encoding/chat_formats.py).

    Args:
        tokenizer: of a model with a chat format.
        src_length, tgt_length: most tokens of a question and of its answer. GLM-4 keeps them together: their sum is the
            most of a training row, and a prompt gives up its oldest turns.
        plain: prompts are the text with the tokens that every prompt has, and no turns: for base models.
    """

    defaults = CHAT

    def __init__(
        self,
        tokenizer,
        src_length: int = 608,
        tgt_length: int = 160,
        no_block_position: bool = False,
        plain: bool = False,
        generation: GenerationFile = NO_FILE,
    ):
        if no_block_position:
            raise UsageError(
                f"no_block_position is an option of GLM (2021), this is a {tokenizer.kind} model: leave it out"
            )
        frame = len(tokenizer.build_inputs([]))
        if src_length <= frame:
            raise UsageError(
                f"src_length is {src_length}; {frame} tokens of frame and some text need at least {frame + 1}"
            )
        if tgt_length < 1:
            raise UsageError(f"tgt_length is {tgt_length}, and must be at least 1")
        self.chat, self.plain = chat_format(tokenizer), plain
        self.cuts = {**self.chat.cuts, **({"source": "their beginning is lost"} if plain else {})}
        super().__init__(tokenizer, src_length, tgt_length, generation)
        self.positions = (
            BlockPositions(tokenizer.mask_token_ids, ranked=True) if self.chat.fills_blank else TextPositions()
        )

    def rows(self, example: Example) -> list[TrainingExample]:
        lengths = self.src_length, self.tgt_length
        rows = self.chat.training_examples(
            self.tokenizer, example.messages, example.tools or None, *lengths, self.counts
        )
        self.truncated["row"] += sum(row.cut for row in rows)
        return rows

    def prompt(self, example: Example) -> list[int]:
        ids, _, cut = self._evaluated(example)
        self.truncated["source"] += cut
        return ids

    def _evaluated(self, example: Example) -> tuple[list[int], list[int], bool]:
        return self.chat.evaluated(self.tokenizer, example.messages, example.tools or None, self.src_length)

    def text_prompt(self, text: str) -> list[int]:
        if not self.plain:
            return self.messages_prompt([{"role": "user", "content": text}])
        ids = self.tokenizer.text_ids(text, split_special_tokens=True)
        room = self.src_length - len(self.tokenizer.build_inputs([]))
        if room < 1:
            raise UsageError(f"src_length {self.src_length} has no room for a text beside the prompt's own tokens")
        self.truncated["source"] += len(ids) > room
        return self.tokenizer.build_inputs(ids[-room:])

    def messages_prompt(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        """Ids after which the model answers the last message."""
        ids = self.chat.prompt_ids(self.tokenizer, messages, tools)
        if len(ids) <= self.src_length:
            return ids
        self.truncated["source"] += 1
        return self.chat.prompt_ids(self.tokenizer, messages, tools, self.src_length)

    def reference(self, example: Example) -> str:
        return self.decode(self._evaluated(example)[1])

    def postprocess(self, text: str) -> str:
        return super().postprocess(text) if self.plain or self.verbatim else self.chat.postprocess(text)

    def stable_length(self, text: str) -> int:
        return super().stable_length(text) if self.plain or self.verbatim else self.chat.stable_length(text)

    @property
    def can_switch_thinking(self) -> bool:
        return THINKING in self.tokenizer.readable_variables()

    def set_thinking(self, enabled: bool | None) -> None:
        if enabled is not None:
            self.tokenizer = self.tokenizer.with_template_variables({THINKING: enabled})

    @property
    def thinks_unasked(self) -> bool:
        """Whether answers begin with thoughts where nobody says otherwise."""
        return self.can_switch_thinking and self.tokenizer.template_variables.get(THINKING, True)

    def reader(self, tools: Tools, prompt: Sequence[int], one_call: bool = False) -> ToolCallReader:
        """What reads the answer to a prompt, thoughts and calls of tools apart."""
        thinks = opens_thoughts(self.tokenizer, prompt)
        return self.chat.open_reader(tools, (self.postprocess, self.stable_length), thinks, one_call)

    def thinking(self, prompt: Sequence[int]) -> dict[str, bool]:
        """Whether a prompt opened thoughts, and whether the model may: what grammars have to know."""
        may_think = self.chat.may_think(self.tokenizer, prompt)
        return {"thinks": opens_thoughts(self.tokenizer, prompt), "may_think": may_think}

    def message(self, ids: Sequence[int], tools: Tools | None = None) -> Message:
        """The assistant's message that generated ids stand for: a call of one of `tools`, or text.

        GLM-4 may say something and continue in a turn of its own with the call.
        """
        turn_starts = [i + 1 for i, index in enumerate(ids) if index == self.tokenizer.added_tokens.get(ASSISTANT)]
        last = ids[max(turn_starts, default=0) :]
        message = self.chat.answer(self.tokenizer.text_of(last), tools)
        return message if "metadata" in message else {"role": "assistant", "content": self.answer(ids)}
