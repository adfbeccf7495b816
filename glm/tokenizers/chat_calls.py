"""`apply_chat_template`: conversations as ids or text, by the directory's template or the family's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from glm.errors import GLMError, UsageError
from glm.tokenizers.batch_encoding import BatchEncoding, check_tensors, padding_strategy
from glm.tokenizers.calls import Framed
from glm.tokenizers.chat_template import ChatTemplate
from glm.tokenizers.special_tokens import ROLES

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]
# Where the last message's text ends while a template is filled; Unicode noncharacters, which no text holds.
_END = "\ufdd1\ufdd2"
# What every conversation sets, and functions of the environment.
_RESERVED = ("messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now")


class ChatCalls:
    """Chat templates over a tokenizer's `text_ids`, its `_templates` and its `_splitter`.

    Class attributes:
        default_template: where the directory has none.
        frames_prompt: whether the tokens around a prompt follow the template's text, instead of standing in it.

    Attributes:
        template_variables: what the template reads besides, `enable_thinking` for example.
    """

    default_template: ClassVar[str] = ""
    frames_prompt: ClassVar[bool] = False
    template_variables: Mapping[str, Any] = MappingProxyType({})

    @property
    def chat_template(self) -> str | None:
        """Source of the template of conversations: what was set, else the directory's, else the family's; or None."""
        found = self._templates.get("default")
        return found.source if found else self.default_template or None

    @chat_template.setter
    def chat_template(self, source: str | None) -> None:
        if not isinstance(source, (str, type(None))):
            raise UsageError(f"chat_template is a {type(source).__name__}, and must be the text of a template")
        self._templates = {"default": ChatTemplate.of(source)} if source else {}
        self._files = self._files.with_template(source)

    def get_chat_template(self, chat_template: str | None = None, tools: Tools | None = None) -> str:
        """Source of the template that `apply_chat_template` would use; arguments and errors as there."""
        return self._chosen(chat_template, bool(tools), "").source

    def template_for(self, tools: bool = False, default: str = "") -> ChatTemplate:
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

    def readable_variables(self) -> frozenset[str]:
        """Names of variables that the templates read and a user may set."""
        own = [ChatTemplate.of(self.default_template)] if self.default_template else []
        templates = [*self._templates.values()] or own
        return frozenset().union(*(each.switches for each in templates)) - {*_RESERVED, *ROLES}

    def with_template_variables(self, variables: Mapping[str, Any]) -> ChatCalls:
        """The same tokenizer, whose conversations are written with these variables besides those it has.

        Raises:
            UsageError: a variable that no template of it reads.
        """
        readable = self.readable_variables()
        if unread := [name for name in variables if name not in readable]:
            known = ", ".join(sorted(readable)) or "none"
            raise UsageError(f"this model's chat template reads no variable '{unread[0]:.60}'; it reads {known}")
        other = copy.copy(self)
        other.template_variables = {**self.template_variables, **variables}
        return other

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
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
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
            continue_final_message: end with the last message's text, for the model to continue.
            return_assistant_tokens_mask: not implemented.
            variables: what else the template may read.

        Raises:
            UsageError: no conversation, or options that contradict each other.
            GLMError: messages that the template or the family has no place for, or no template.
        """
        check_tensors(return_tensors)
        if return_assistant_tokens_mask:
            raise UsageError("return_assistant_tokens_mask is not implemented: leave it out")
        conversations, batched = _conversations(conversation if messages is None else messages)
        template = self._chosen(chat_template, bool(tools), default)
        if continue_final_message:
            self._check_continued(conversations, add_generation_prompt)
            texts = [self._continued(template, each, tools, variables) for each in conversations]
        else:
            texts = [
                self.marked_chat(template, each, tools, add_generation_prompt, **variables) for each in conversations
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
        asked = {name: value for name, value in self.template_variables.items() if name not in variables}
        return template.render(messages, tools, add_generation_prompt, self._splitter.mark, asked, **variables)

    def marked(self, text: str) -> str:
        """A user's text as `marked_chat` has it."""
        return self._splitter.mark(text)

    def _chosen(self, chat_template: str | None, tools: bool, default: str) -> ChatTemplate:
        if chat_template is None:
            return self.template_for(tools, default)
        return self._templates.get(chat_template) or ChatTemplate.of(chat_template)

    def _check_continued(self, conversations: Sequence[Messages], add_generation_prompt: bool) -> None:
        if add_generation_prompt:
            raise UsageError(
                "continue_final_message continues the last message, and add_generation_prompt begins another one: "
                "give one of the two"
            )
        if self.frames_prompt:
            raise UsageError("continue_final_message: this model's answers begin behind its own tokens; ask instead")
        if not all(isinstance(messages[-1].get("content"), str) for messages in conversations):
            raise UsageError("continue_final_message needs a last message with a text as its content")

    def _continued(self, template: ChatTemplate, messages: Messages, tools: Tools | None, variables) -> str:
        """A conversation up to the end of its last message's text; blanks there stay where the template keeps them."""
        last = messages[-1]
        marked = [*messages[:-1], {**last, "content": f"{last['content']}{_END} "}]
        text = self.marked_chat(template, marked, tools, **variables)
        before, found, after = text.rpartition(_END)
        if not found:
            raise GLMError("the chat template leaves the last message out, so it cannot be continued")
        return before if after.startswith(" ") else before.rstrip()

    def _chat_ids(self, text: str, prompt: bool, truncation, max_length: int | None, padding) -> Framed:
        """Ids of a conversation, and their token types."""
        ids = self.text_ids(text)
        ids = self.build_inputs(ids) if prompt and self.frames_prompt else ids
        cut = self._cut_of(truncation, max_length, padding)
        ids = self._cut([ids], max_length, cut)[0] if cut and max_length is not None else ids
        return ids, [0] * len(ids)


def _conversations(messages) -> tuple[list[Messages], bool]:
    """Conversations, and whether it is a batch. Raises UsageError for something else, and for an empty one."""
    wanted = "a list of {role, content} objects, or a list of such lists"
    if not isinstance(messages, (list, tuple)):
        raise UsageError(f"apply_chat_template needs messages, {wanted}, and got {messages!r:.60}")
    batched = len(messages) > 0 and not isinstance(messages[0], Mapping)
    conversations = list(messages) if batched else [messages]
    for each in conversations:
        if not isinstance(each, (list, tuple)) or not each or not all(isinstance(m, Mapping) for m in each):
            raise UsageError(f"a conversation is {each!r:.60}: messages are {wanted}")
    return conversations, batched
