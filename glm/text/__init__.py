"""Texts in, texts out: prompts, conversations and files, over a model or over an export of one."""
