"""`apply_chat_template`: conversations as ids or text, by the directory's template or the family's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from glm.errors import GLMError, UsageError
from glm.tokenizers.batch_encoding import BatchEncoding, check_tensors, padding_strategy
from glm.tokenizers.chat_template import ChatTemplate

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


class ChatCalls:
    """Chat templates over a tokenizer's `text_ids`, its `_templates` and its `_splitter`.

    Class attributes:
        default_template: where the directory has none.
        frames_prompt: whether the tokens around a prompt follow the template's text, instead of standing in it.
    """

    default_template: ClassVar[str] = ""
    frames_prompt: ClassVar[bool] = False

    def chat_template(self, tools: bool = False, default: str = "") -> ChatTemplate:
        """The directory's template; one named "tool_use" where there are tools, as in transformers.

        Raises GLMError where the directory has none, and neither `default` nor the family gives one.
        """
        named = self._templates.get("tool_use") if tools else None
        found = named or self._templates.get("default")
        default = default or self.default_template
        if found or default:
            return found or ChatTemplate.of(default)
        known = f"only those named {', '.join(self._templates)}" if self._templates else "none"
        raise GLMError(f"the tokenizer has no default chat template ({known}); copy chat_template.jinja beside it.")

    def apply_chat_template(
        self,
        messages: Messages | Sequence[Messages] | None = None,
        tools: Tools | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        default: str = "",
        *,
        conversation: Messages | Sequence[Messages] | None = None,
        chat_template: str | None = None,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = False,
        **variables,
    ) -> list | str | BatchEncoding:
        """Ids or text of a conversation, or of a list of them, as the template writes it.

        A special token spelt inside a message is text, not that token: nobody can end a turn by typing `<|user|>`.

        Args:
            messages: {"role", "content", …} each; `conversation` is another name for it.
            tools: JSON schemas of functions that the model may call.
            add_generation_prompt: end where the model writes its answer.
            tokenize: False gives text.
            default: the template where the directory has none.
            chat_template: a template to use instead, or the name of one of the directory's.
            padding, truncation, max_length, return_tensors: as in a call.
            return_dict: a `BatchEncoding`, as of a call, instead of the ids alone.
            variables: what else the template may read.

        Raises:
            GLMError: messages that the template or the family has no place for, or no template.
        """
        check_tensors(return_tensors)
        messages = conversation if messages is None else messages
        if messages is None:
            raise UsageError("apply_chat_template needs messages: a list of {role, content} objects")
        batched = len(messages) > 0 and not isinstance(messages[0], Mapping)
        template = self._chosen(chat_template, bool(tools), default)
        texts = [
            self.marked_chat(template, each, tools, add_generation_prompt, **variables)
            for each in (messages if batched else [messages])
        ]
        if not tokenize:
            plain = [self._splitter.unmark(text) for text in texts]
            return plain if batched else plain[0]
        rows = [self._chat_ids(text, add_generation_prompt, truncation, max_length, padding) for text in texts]
        options = (padding_strategy(padding), max_length, None, None)
        encoding = self._batch(
            rows, batched, dict.fromkeys(("attention_mask", "position_ids", "token_type_ids")), options, return_tensors
        )
        return encoding if return_dict else encoding["input_ids"]

    def marked_chat(
        self,
        template: ChatTemplate,
        messages: Messages,
        tools: Tools | None = None,
        add_generation_prompt: bool = False,
        **variables,
    ) -> str:
        """A conversation as text, special tokens that a message spells marked; `text_ids` takes the marks."""
        variables = {**self.role_tokens, **variables}
        return template.render(messages, tools, add_generation_prompt, self._splitter.mark, **variables)

    def marked(self, text: str) -> str:
        """A user's text as `marked_chat` has it."""
        return self._splitter.mark(text)

    def _chosen(self, chat_template: str | None, tools: bool, default: str) -> ChatTemplate:
        if chat_template is None:
            return self.chat_template(tools, default)
        return self._templates.get(chat_template) or ChatTemplate.of(chat_template)

    def _chat_ids(self, text: str, prompt: bool, truncation, max_length: int | None, padding) -> list[int]:
        ids = self.text_ids(text)
        ids = self.build_inputs(ids) if prompt and self.frames_prompt else ids
        cut = self._cut_of(truncation, max_length, padding)
        return self._cut([ids], max_length, cut)[0] if cut and max_length is not None else ids
