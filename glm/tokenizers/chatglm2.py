"""The tokenizers of ChatGLM2-6B and ChatGLM3-6B: one sentencepiece `tokenizer.model`, and special tokens behind it.

Byte-pair encoding of 64,789 pieces, bytes as fallback (<0x0A> is 13), <unk> 0, which pads, and </s> 2. Behind them
stand [MASK] 64789, [gMASK] 64790, [sMASK] 64791, sop 64792 and eop 64793, and in ChatGLM3 the roles: <|system|> 64794,
<|user|> 64795, <|assistant|> 64796, <|observation|> 64797. The file is the same in both (tokenization_chatglm.py of
THUDM/chatglm2-6b and THUDM/chatglm3-6b), and the name of the class, too; what stands beside it tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from glm.errors import GLMError
from glm.files.json_files import CONFIG_FILE
from glm.tokenizers.added_tokens import AddedToken, check_added_tokens, read_added_tokens
from glm.tokenizers.kept_files import KeptFiles
from glm.tokenizers.sentence_pieces import SentencePieceTokenizer

TASK_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
# Numbered rounds from 1 on; of a conversation that ends with an answer, all.
ROUND_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role != ('user', 'assistant')[loop.index0 % 2] %}"
    "{{ raise_exception('message ' ~ loop.index ~ ' is the ' ~ message.role ~ \"'s; user and assistant take turns in "
    'this model") }}{% endif %}'
    "{% if loop.first %}[gMASK]sop{% endif %}"
    "{% if message.role == 'user' %}[Round {{ loop.index0 // 2 + 1 }}]{{ '\\n\\n' }}问：{{ message.content }}"
    "{{ '\\n\\n' }}答：{% else %}{{ message.content }}{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endif %}"
    "{% endfor %}"
    "{% if tools %}{{ raise_exception('this model calls no tools; leave tools out') }}{% endif %}"
    "{% if add_generation_prompt and messages[-1].role == 'assistant' %}"
    "{{ raise_exception(\"the last message is the assistant's; end with the user's question\") }}{% endif %}"
)
# As `build_chat_input` of tokenization_chatglm.py: role, metadata, line end, content; tools as JSON behind the system's
# text. A message is cut into pieces on its own there; the blank is what sentencepiece puts before a text.
CHATGLM3_TEMPLATE = (
    "{% macro listed(tools) %}{% set found = namespace(tools=[]) %}"
    "{% for tool in tools %}{% set found.tools = found.tools + [tool.function or tool] %}{% endfor %}"
    "{{ found.tools | tojson(indent=4) }}{% endmacro %}"
    "{% set opening = 'Answer the following questions as best as you can. You have access to the following tools:' %}"
    "[gMASK]sop{% if tools and messages[0].role != 'system' %}<|system|>\n {{ opening ~ '\n' ~ listed(tools) }}"
    "{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.metadata or '' }}\n"
    "{% set given = message.tools or (tools if loop.first) if message.role == 'system' %}"
    "{% if given %} {{ (message.content or opening) ~ '\n' ~ listed(given) }}"
    "{% elif message.content %} {{ message.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# That of later revisions of THUDM/chatglm3-6b, which leaves tools and names of called tools out without a word.
_PUBLISHED_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}[gMASK]sop<|{{ message['role'] }}|>\n {{ message['content'] }}"
    "{% else %}<|{{ message['role'] }}|>\n {{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CONFIG = {
    "tokenizer_class": "ChatGLMTokenizer",
    "remove_space": False,
    "do_lower_case": False,
    "unk_token": "<unk>",
    "eos_token": "</s>",
    "pad_token": "<unk>",
    "padding_side": "left",
}


class ChatGLM2Tokenizer(SentencePieceTokenizer):
    """ChatGLM2-6B and CodeGeeX2-6B: rounds of questions and answers, no roles.

    Raises GLMError where the vocabulary file is no sentencepiece model, or tokenizer_config.json gives a special token
    another id.
    """

    kind = "chatglm2"
    vocabulary_file = "tokenizer.model"
    default_config = {"name_or_path": "THUDM/chatglm2-6b", **_CONFIG}  # noqa: RUF012
    prefix = ("[gMASK]", "sop")
    stop_tokens = ("</s>",)
    model_input_names = ("input_ids", "attention_mask", "position_ids")
    default_template = ROUND_TEMPLATE
    # In the order of their ids, behind the pieces.
    behind: ClassVar[tuple[str, ...]] = TASK_TOKENS

    def __init__(self, files: KeptFiles | str | Path, **config):
        super().__init__(files, **config)
        pieces = [AddedToken(self._piece(i), i) for i in range(self.vocab_size) if self._stands_for_nothing(i)]
        behind = [AddedToken(text, self.vocab_size + i) for i, text in enumerate(self.behind)]
        self._finish([*pieces, *behind, *self._users_tokens({token.text: token.id for token in [*pieces, *behind]})])

    def _stands_for_nothing(self, index: int) -> bool:
        return self._pieces.IsControl(index) or self._pieces.IsUnknown(index)

    def _users_tokens(self, own: dict[str, int]) -> list[AddedToken]:
        """What tokenizer_config.json adds to those that every model has."""
        stated = read_added_tokens(self.config)
        for token in stated:
            if own.get(token.text, token.id) != token.id:
                raise GLMError(
                    f"{CONFIG_FILE} gives {token.text} the id {token.id}, which is {own[token.text]} behind "
                    f"{self.vocab_size} pieces; take both files from one checkpoint."
                )
        more = [token for token in stated if token.text not in own]
        check_added_tokens(more, self.vocab_size)
        return more

    def _written_tokens(self, added: Sequence[AddedToken]) -> Sequence[AddedToken]:
        """None of the pieces: <s> and </s> are HTML tags as well. sop and eop stand in words, so sop is a token behind
        [gMASK] alone, as templates write it."""
        sop = AddedToken("sop", self.vocab_size + self.behind.index("sop"), behind="[gMASK]")
        return [sop, *(token for token in added if token.id >= self.vocab_size and token.text not in ("sop", "eop"))]

    @property
    def sop_token_id(self) -> int:
        return self.added_tokens["sop"]


class ChatGLM3Tokenizer(ChatGLM2Tokenizer):
    """ChatGLM3-6B and its base and long models: roles, and tools."""

    kind = "chatglm3"
    default_config = {"name_or_path": "THUDM/chatglm3-6b", **_CONFIG}  # noqa: RUF012
    # The model ends its turn by naming whose turn it is.
    stop_tokens = ("</s>", "<|user|>", "<|observation|>")
    default_template = CHATGLM3_TEMPLATE
    behind = (*TASK_TOKENS, *ROLE_TOKENS)

    def _finish(self, added: Sequence[AddedToken]) -> None:
        super()._finish(added)
        found = self._templates.get("default")
        if found and found.source == _PUBLISHED_TEMPLATE:
            del self._templates["default"]


def is_sentencepiece(path: Path) -> bool:
    """Whether a tokenizer.model is sentencepiece's, a protobuf message, and no list of tiktoken ranks."""
    with path.open("rb") as stream:
        return stream.read(1) == b"\n"


def has_roles(directory: Path) -> bool:
    """Whether a directory with such a tokenizer.model is ChatGLM3's, by what a tokenizer keeps of it besides.

    Raises:
        GLMError: nothing there says whose it is.
    """
    kept = KeptFiles.read(directory, ChatGLM2Tokenizer.vocabulary_file).contents
    others = (content for name, content in kept.items() if name != ChatGLM2Tokenizer.vocabulary_file)
    text = b"\n".join(others).decode("utf-8", "replace")
    if "<|user|>" in text or re.search("chatglm3", text, re.IGNORECASE):
        return True
    if "[Round" in text or re.search("chatglm2|codegeex2", text, re.IGNORECASE):
        return False
    raise GLMError(
        f"{directory} holds a tokenizer.model of ChatGLM2 or of ChatGLM3, and nothing that says of which: write "
        f'"name_or_path": "THUDM/chatglm3-6b", or "THUDM/chatglm2-6b", into {CONFIG_FILE}'
    )
