"""lm-evaluation-harness over transformers on torch, in the peers' environment. Imports nothing of glm.

Requests are ids, as on the other sides, so no tokenizer is measured. The harness reads each prompt once for its four
letters (`logits_cache`, its default), in batches of the same size.
"""

import time

import torch
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.settings import Task
from benchmarks.side import Place, Scores
from benchmarks.sides.prompts import questions_of

END = "<end>"


class Side:
    """See `benchmarks.side`."""

    def __init__(self, place: Place):
        self.directory = place.directory
        self.model = AutoModelForCausalLM.from_pretrained(place.directory / "hf", dtype=torch.float32).eval()

    def score(self, task: Task) -> Scores:
        words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({END: 0}, END)), eos_token=END)
        lm = HFLM(self.model, tokenizer=words, batch_size=task.batch)
        shots, questions, letters = questions_of(self.directory)
        requests = [
            ((str(place), str(letter)), [*shots, *question], [letter])
            for place, question in enumerate(questions)
            for letter in letters
        ]
        start = time.perf_counter()
        found = iter(lm._loglikelihood_tokens(requests, disable_tqdm=True))
        rows = [[float(next(found)[0]) for _ in letters] for _ in questions]
        return Scores(rows, time.perf_counter() - start)
