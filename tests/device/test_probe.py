"""The probe on the CPU, on the simulated NPU, on one that lacks a kernel, and between two ranks."""

import json
import subprocess
import sys
from pathlib import Path

import paddle
import pytest

from glm.device import probe as probe_module
from glm.device.capabilities import CAPABILITIES, Capability
from glm.device.paddle_reason import paddle_reason
from glm.device.probe import default_dtype, probe, require, require_dtype, usable_dtype, versions
from tests.npu_simulator.launching import environment, launch, needs_compiler

ROOT = Path(__file__).resolve().parents[2]
PRELUDE = (
    "import glm, json; from glm.cli.script import *\n"
    "import paddle; from glm.device.probe import *; from glm.errors import *\n"
)


def on_npu(code: str, **variables: str) -> dict:
    """Runs Python in a process with two simulated NPUs; returns the JSON that it prints."""
    command = [sys.executable, "-W", "ignore", "-c", PRELUDE + code]
    variables = {"NPU_SIMULATOR_DEVICES": "2", "GLOG_minloglevel": "2", **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_cpu_does_all_but_half_precision():
    report = probe("cpu")
    assert report.device == "cpu" and len(report.results) == len(CAPABILITIES)
    assert report.missing("training") == report.missing("generation") == []
    assert report.missing("bfloat16") and report.missing("float16")
    reasons = {result.name: result.reason for result in report.missing("bfloat16")}
    assert "`matmul` is not registered" in reasons["matmul and its gradient"]
    assert not [reason for reason in reasons.values() if "\n" in reason or "(at /" in reason]


def test_a_cpu_is_asked_for_nothing(monkeypatch):
    monkeypatch.setattr(probe_module, "_probe", None)
    require("cpu")
    require("gpu:1")
    require_dtype("gpu:0", "float16")
    assert default_dtype("cpu")[0] == default_dtype("gpu:0")[0] == "float32"
    assert usable_dtype("cpu", "bfloat16") == usable_dtype("cpu", "float16") == "float32"


def test_probing_leaves_the_process_as_it_was():
    paddle.seed(7)
    wanted = paddle.rand([4]).numpy().tolist()
    paddle.seed(7)
    probe_module._probe.cache_clear()
    first = probe("cpu")
    assert paddle.rand([4]).numpy().tolist() == wanted
    assert probe("cpu") is first
    with paddle.utils.unique_name.guard():
        probe_module._probe.cache_clear()
        probe("cpu")
        assert paddle.create_parameter([1], "float32").name == "create_parameter_0.w_0"


def test_wrong_numbers_are_found(monkeypatch):
    """Each capability with one number changed is reported with both."""

    def wrong(run):
        def changed(dtype):
            (tensor, wanted), *rest = run(dtype)
            return [(tensor, paddle.to_tensor(wanted).astype("float32").numpy() + 0.1), *rest]

        return changed

    in_float32 = [c for c in CAPABILITIES if c.dtype == "float32"]
    broken = [
        Capability(c.name, c.use, wrong(c.run)) for c in in_float32 if c.run(c.dtype)[0][0].dtype == paddle.float32
    ]
    assert len(broken) > 10
    monkeypatch.setattr(probe_module, "CAPABILITIES", broken)
    probe_module._probe.cache_clear()
    try:
        reasons = [result.reason for result in probe("cpu").results]
    finally:
        probe_module._probe.cache_clear()
    assert not [reason for reason in reasons if reason is None or " instead of " not in reason]


ON_NPU = """
report = probe("npu:1")
stray = Capability("stray", "model", lambda dtype: [(paddle.ones([1]).cpu(), [1])])
paddle.set_device("npu:0")
print(json.dumps({
    "device": report.device, "after": paddle.get_device(), "seconds": report.seconds,
    "cached": probe("npu:1") is report,
    "float32": [r.name for use in ("training", "generation") for r in report.missing(use)], "versions": report.versions,
    "half": {d: not report.missing(d) for d in ("bfloat16", "float16")},
    "default": default_dtype("npu:1"), "stray": probe_module._reason(stray), "required": require("npu:1"),
    "usable": usable_dtype("npu:1", "bfloat16"),
}))
"""


@needs_compiler
def test_the_simulated_npu():
    found = on_npu(
        "from glm.device import probe as probe_module; from glm.device.capabilities import Capability" + ON_NPU
    )
    assert found["device"] == "npu:1" and found["after"] == "npu:0" and found["cached"]
    assert found["float32"] == [] and found["required"] is None
    assert found["seconds"] < 5  # 0.2 s on an idle machine
    assert found["versions"]["paddlepaddle"] == paddle.__version__
    assert "not installed as a package" in found["versions"]["paddle-custom-npu"]
    assert found["stray"] == "a result lies at Place(cpu), not at Place(npu:0)"
    dtype, reason = found["default"]
    assert found["half"] == {"bfloat16": True, "float16": True} and dtype == found["usable"] == "bfloat16"
    assert reason and "\n" not in reason


LACKING = """
messages = {}
for name, call in {"train": lambda: require("npu:0"), "generate": lambda: require("npu", "generation"),
                   "dtype": lambda: require_dtype("npu:0", "bfloat16", "the flag")}.items():
    try:
        call()
    except UsageError as error:
        messages[name] = str(error)
print(json.dumps(messages | {"default": default_dtype("npu:0"), "usable": usable_dtype("npu:0", "bfloat16")}))
"""


@needs_compiler
def test_a_missing_kernel_is_one_line():
    """Paddle's own black list takes a kernel away from the plugin."""
    found = on_npu(LACKING, CUSTOM_DEVICE_BLACK_LIST="strided_copy")
    for use in ("train", "generate"):
        assert found[use].startswith("npu:0 cannot do ") and "\n" not in found[use]
        assert "it lacks strided copies (The kernel with key" in found[use] and "kernel `strided_copy`" in found[use]
        assert f"here: paddlepaddle {paddle.__version__}, " in found[use]
        assert "install paddlepaddle and paddle-custom-npu of one version (docs/devices.md)" in found[use]
    assert found["dtype"].startswith("the flag bfloat16 does not run on npu:0: it lacks ")
    assert found["default"][0] == found["usable"] == "float32" and "strided_copy" in found["default"][1]


@needs_compiler
def test_the_table_of_an_npu():
    command = [sys.executable, "-m", "glm.device"]
    variables = environment(NPU_SIMULATOR_DEVICES="2", COLUMNS="200", CUSTOM_DEVICE_BLACK_LIST="strided_copy")
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("device: npu  (found: 2 npus, cpu; choose with --device)\n")
    rows = {
        tuple(c.strip() for c in line.strip("│").split("│"))[:3] for line in done.stdout.splitlines() if "│" in line
    }
    assert rows >= {("model", "matmul and its gradient", "✓"), ("model", "strided copies", "✗")}
    assert len(rows) == len(CAPABILITIES)
    assert f"paddlepaddle: {paddle.__version__}\n" in done.stdout
    assert "training dtype: float32  (bfloat16 does not run on npu" in done.stdout
    assert "attention of GLM-4 in bfloat16: dense  (no flash: " in done.stdout


def test_versions_of_an_installed_plugin(tmp_path, monkeypatch):
    """The file is the one that the plugin's setup.py writes; it is not run."""
    package = tmp_path / "paddle_custom_device" / "npu"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise SystemExit('run')\n")
    text = "from .ops import *\nfull_version  = '3.0.0'\ncann_version  = '8.0.0'\ngit_commit_id = 'abc'\na, b = 1, 2\n"
    (package / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = versions("npu:0")
    assert found["paddlepaddle"] == paddle.version.full_version
    assert [found[name] for name in ("paddle-custom-npu", "plugin's commit", "CANN")] == ["3.0.0", "abc", "8.0.0"]
    assert "paddle-custom-npu" not in versions("gpu:0")
    (package / "__init__.py").write_text("full_version = (")
    assert "not installed" in versions("npu:0")["paddle-custom-npu"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n\nC++ Traceback\n0 somewhere\n(NotFound) No kernel.\n  [Hint: more] (at /paddle/x.cc:1)\n", "No kernel"),
        (
            "InvalidArgumentError: Attribute 0 cast error. (at /paddle/x.cc:1)",
            "InvalidArgumentError: Attribute 0 cast error",
        ),
        ("(External) ACL error [Hint: b] (at /a/b.cc:2)", "ACL error"),
        ("plain words", "plain words"),
        ("", "ValueError without a reason"),
    ],
)
def test_reasons(text, line):
    assert paddle_reason(ValueError(text)) == line


RANKS = """
import glm, os, sys
import paddle.distributed as dist
from paddle.distributed import fleet
from glm.device.choice import choose_device
from glm.errors import GLMError, UsageError
from glm.device.probe import probe_collectives

rank = int(os.environ["PADDLE_TRAINER_ID"])
print("devices", choose_device(), choose_device("npu"))
try:
    choose_device(f"npu:{1 - rank}")
except UsageError as error:
    print("other:", error)
strategy = fleet.DistributedStrategy()
strategy.hybrid_configs = {"dp_degree": 1, "mp_degree": 2, "pp_degree": 1, "sharding_degree": 1}
fleet.init(is_collective=True, strategy=strategy)
probe_collectives()
print("all collectives")
for name, call in {"all_reduce": lambda *a, **k: None, "broadcast": lambda *a, **k: 1 // 0}.items():
    kept = getattr(dist, name)
    setattr(dist, name, call)
    try:
        probe_collectives()
    except GLMError as error:
        print("error:", error)
    setattr(dist, name, kept)
"""


@needs_compiler
def test_two_ranks(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS, encoding="utf-8")
    result = launch(str(script), 2, tmp_path / "logs")
    assert result.code == 0, str(result)
    for rank, log in enumerate(result.logs):
        assert f"devices npu:{rank} npu:{rank}\n" in log
        assert f"other: device 'npu:{1 - rank}' is another process's: the launcher gave this one npu:{rank}" in log
        assert "all collectives\n" in log
        fails = f"fails between 2 npus, on rank {rank}:"
        assert f"error: all_reduce {fails} gives [{rank + 1.0}] instead of [3.0]; see docs/devices.md\n" in log
        assert f"error: broadcast {fails} integer division or modulo by zero; see docs/devices.md\n" in log
