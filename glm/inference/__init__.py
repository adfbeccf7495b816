"""Prompts in, completions out, over a model or over an export of one."""
