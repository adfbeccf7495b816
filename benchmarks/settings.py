"""What is measured: shapes, columns and tasks, as tables."""

from dataclasses import dataclass

# Dropout as GLM-Large-Chinese has it, also where a preset has none.
DROPOUT = {"embedding_dropout": 0.1, "attention_dropout": 0.1, "hidden_dropout": 0.1}
LABEL_SMOOTHING, LEARNING_RATE, LORA_RANK = 0.1, 1e-4, 8
SEED = 1
# Processes start without any of these, so that the shell of whoever runs this changes no column.
TUNING_VARIABLES = ("MKL_", "OMP_", "KMP_", "FLAGS_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
WORKER_LIMIT = 1200  # seconds until a measurement is given up


@dataclass(frozen=True)
class Shape:
    """How large the measured work is.

    Attributes:
        preset: name in `glm.presets.PRESETS`.
        batch, source, new_tokens: rows, prompt tokens a row (the start-of-piece not counted), generated tokens a row.
        patience: seconds of counted runs after which there is no further one, and after which the peer's generation is
            cut short if the whole would take more than twice as long.
        processes: how many measurements run side by side; 1 wherever the times matter.
    """

    preset: str
    batch: int = 2
    source: int = 200
    new_tokens: int = 32
    patience: float = 30.0
    processes: int = 1


SHAPES = {
    "large": Shape("glm-large-chinese"),
    "tiny": Shape("glm-tiny-chinese", source=24, new_tokens=8, processes=2),
}


@dataclass(frozen=True)
class Column:
    """One side of the comparison.

    Attributes:
        title: in the table.
        module: of `benchmarks`, with the class `Side`.
        tuned: whether its process imports glm before Paddle, and so runs in the environment of glm/device.py.
    """

    title: str
    module: str
    tuned: bool


COLUMNS = {
    "project": Column("this project", "benchmarks.project", tuned=True),
    "tuned": Column("paddlenlp tuned", "benchmarks.peer", tuned=True),
    "installed": Column("paddlenlp as installed", "benchmarks.peer", tuned=False),
}


@dataclass(frozen=True)
class Task:
    """One kind of work.

    Attributes:
        title: in the table.
        aim: how many times as fast as the tuned peer this project wants to be.
        training: whether it trains; else it generates.
        lora: whether only adapters are trained.
        beams: of the search.
        no_repeat: size of the n-grams that must not occur twice.
    """

    title: str
    aim: float
    training: bool = False
    lora: bool = False
    beams: int = 1
    no_repeat: int = 0


TASKS = {
    "train": Task("training, all weights", 1.5, training=True),
    "lora": Task(f"training, LoRA r={LORA_RANK}", 1.5, training=True, lora=True),
    "greedy": Task("generation, greedy", 10.0),
    "beam": Task("generation, 5 beams, no 3-gram twice", 15.0, beams=5, no_repeat=3),
}
