"""Multiple-choice benchmarks in their published layouts: MMLU, C-Eval and CMMLU."""
