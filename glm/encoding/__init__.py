"""Texts and conversations as ids: chat formats, processors, examples and their batches."""
