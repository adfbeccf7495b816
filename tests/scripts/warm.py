"""Runs scripts in fresh processes that find Paddle and PaddleNLP already imported, which saves six seconds each.

Started by `commands.WarmRunner`. Reads a list of requests per line, {argv, cwd, environ, stdin, stdout, stderr,
seconds}, forks for each, and answers with the exit codes when all have ended. No tensor is computed before the fork, so
the child has no lost threads. `glm` is imported anew in every child: what a script does at its own import happens
there.
"""

import atexit
import json
import os
import runpy
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = [
    "paddle.inference",
    "paddlenlp.trainer",
    "paddlenlp.trainer.trainer_callback",
    "paddlenlp.peft",
    "sacrebleu.metrics",
    "rouge_score.rouge_scorer",
    "rouge_chinese",
    "jieba",
    "nltk.translate.bleu_score",
    "matplotlib.pyplot",
    "safetensors.numpy",
    "sentencepiece",
    "rich.table",
]


def preload() -> None:
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("GLOG_minloglevel", "2")
    import_module("glm")  # tunes the CPU before Paddle starts
    import_module("matplotlib").use("Agg")
    for name in PRELOADED:
        import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "glm"]:
        del sys.modules[name]


def run_child(request: dict) -> int:
    """The exit code the interpreter would end with."""
    signal.alarm(request["seconds"])
    os.chdir(request["cwd"])
    os.environ.update(request["environ"])
    sys.modules["paddle.distributed.parallel"]._global_parallel_env = None  # rank and count, as they were at the import
    sys.path[1:1] = request["environ"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[0] = str(Path(request["argv"][0]).parent)
    for descriptor, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        os.dup2(os.open(request[name], flags), descriptor)
    sys.argv = request["argv"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def start(request: dict) -> int:
    """The process number of a child that runs the request."""
    child = os.fork()
    if child:
        return child
    code = run_child(request)
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()  # a rank says goodbye to the others there
    os._exit(code)


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    preload()
    for line in iter(sys.stdin.readline, ""):
        children = [start(request) for request in json.loads(line)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), file=answers, flush=True)


if __name__ == "__main__":
    serve()
