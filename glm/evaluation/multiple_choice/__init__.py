"""Multiple-choice benchmarks on a model or an export: prompts, answers, what is kept of a run, tables and a picture."""
