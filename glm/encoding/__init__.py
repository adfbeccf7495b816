"""Texts and conversations as ids: chat formats, encoders, examples and their batches."""
