"""The command lines of the seed (PaddleNLP's GLM example), as written there, and how the tests run them."""

import re
import shlex
from dataclasses import dataclass

from commands import TINY

# What is replaced, and nothing else. Paths stay: the tests run in an empty directory.
SUBSTITUTIONS = {
    r"THUDM/glm-large-chinese": TINY,  # no weights to download
    r" --fp16_opt_level O2": "",  # refused on a CPU (test_half_precision_is_refused)
    r" --fp16\b": "",
    r"python -m paddle.distributed.launch --gpus [\"0-9,]+ ": "python ",  # one process
    r" --tensor_parallel_degree 8": "",
}

TRAINING = """
    --num_train_epochs 4 --learning_rate 3e-5 --warmup_ratio 0.06 --weight_decay 0.1 --label_smoothing 0.1
    --save_steps {save_steps} --logging_steps 1 --eval_steps {eval_steps} --output_dir ./checkpoints/glm-large-chinese
    --src_length 608 --tgt_length 160 --min_tgt_length 55 --length_penalty 0.7 --no_repeat_ngram_size 3 --num_beams 5
    --select_topk True --per_device_eval_batch_size 2 --per_device_train_batch_size 2 --max_grad_norm 1.0
    --lr_scheduler_type linear
"""
OFTEN = TRAINING.format(save_steps=100, eval_steps=100)
RARELY = TRAINING.format(save_steps=10000, eval_steps=4)
LAUNCH = 'python -m paddle.distributed.launch --gpus "0,1,2,3,4,5,6,7"'
LARGE = "--model_name_or_path THUDM/glm-large-chinese"

COMMANDS = {
    "full": f"""python finetune_generation.py {LARGE} {OFTEN}
        --fp16 --fp16_opt_level O2 --recompute --do_train --do_eval""",
    "lora": f"""python finetune_generation.py {LARGE} {OFTEN}
        --fp16 --fp16_opt_level O2 --recompute --do_train --do_eval --lora True --r 8""",
    "tensor parallel": f"""{LAUNCH} finetune_generation.py {LARGE} {RARELY}
        --fp16 --recompute --do_train --do_eval --tensor_parallel_degree 8""",
    "belle": f"""{LAUNCH} finetune_instruction_generation.py --task_name school_math_0.25M --data_name bellegroup
        {LARGE} {RARELY} --fp16 --recompute --do_train --do_eval --tensor_parallel_degree 8""",
    "export": """python export_generation_model.py --model_name_or_path ./checkpoints/glm-large-chinese
        --output_path ./checkpoints/infer/glm""",
    "export lora": f"""python export_generation_model.py {LARGE} --output_path ./checkpoints/infer/glm
        --lora_path ./checkpoints/glm-large-chinese""",
    "infer": "python infer_generation.py --model_path ./checkpoints/infer --model_prefix glm",
    "predict": "python predict_generation.py --model_name_or_path ./checkpoints/glm-large-chinese",
    "merge": """python -m paddle.distributed.launch --gpus 0,1,2,3 predict_generation.py
        --model_name_or_path ./checkpoints/glm-large-chinese/checkpoint-100/
        --merge_tensor_parallel_path ./checkpoints/glm-merged""",
    "predict lora": f"""python predict_generation.py {LARGE} --lora_path ./checkpoints/glm-large-chinese""",
}


@dataclass(frozen=True)
class SeedCommand:
    """A script and its arguments."""

    script: str
    arguments: tuple[str, ...]


def seed_command(name: str, substitute: bool = True) -> SeedCommand:
    """A command of the seed, with the substitutions."""
    line = " ".join(COMMANDS[name].split())
    for pattern, replacement in SUBSTITUTIONS.items() if substitute else ():
        # The output directory is called like the model; only the model is replaced.
        line = re.sub(pattern, replacement, line)
    words = shlex.split(line)
    start = next(i for i, word in enumerate(words) if word.endswith(".py"))
    return SeedCommand(words[start], tuple(words[start + 1 :]))
