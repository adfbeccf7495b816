"""Ctrl-C ends a script with 130 and without a traceback, wherever it strikes."""

import subprocess
import sys

from tests.indexed_text import ROOT

WITHIN_BACKWARD = """
import paddle
from glm.cli.script import run_script

class Layer(paddle.autograd.PyLayer):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        raise KeyboardInterrupt

def main():
    x = paddle.ones([2])
    x.stop_gradient = False
    Layer.apply(x).sum().backward()

run_script(main)
"""


def test_within_a_backward_pass():
    """Recomputed blocks and the loss by chunks are layers of that kind, in which a run spends most of its time."""
    ended = subprocess.run([sys.executable, "-c", WITHIN_BACKWARD], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 130 and "Traceback" not in ended.stderr, ended.stderr
