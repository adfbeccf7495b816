"""Decoding with a model: options, generation_config.json, greedy search, sampling, beam search."""
