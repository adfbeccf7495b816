"""Tuning the CPU from made-up machines and environments, choosing a device, and what importing glm imports."""

import ast
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from glm.device.__main__ import main
from glm.device.choice import check_dtype, choose_device, device_counts
from glm.device.tuning import keep_freed_memory, tune_cpu, usable_cores, use_huge_pages
from glm.errors import UsageError
from tests.huge_pages import needs_huge_pages
from tests.in_process import run_main

ROOT = Path(__file__).resolve().parents[2]
AVX512 = "avx512f avx512cd avx512bw avx512dq avx512vl avx512_vnni"


def cpuinfo(vendor: str, flags: str) -> str:
    return "".join(f"processor\t: {i}\nvendor_id\t: {vendor}\nflags\t\t: fpu sse {flags} aes\n\n" for i in range(2))


MACHINES = {
    "Intel": (cpuinfo("GenuineIntel", f"avx2 fma {AVX512}"), None),
    "AMD AVX2": (cpuinfo("AuthenticAMD", "avx avx2 fma"), "5"),
    "AMD AVX-512": (cpuinfo("AuthenticAMD", f"avx avx2 fma {AVX512}"), "9"),
    "AMD part of AVX-512": (cpuinfo("AuthenticAMD", "avx2 fma avx512f avx512cd"), "5"),
    "AMD AVX2 without FMA": (cpuinfo("AuthenticAMD", "avx2"), None),
    "old AMD": (cpuinfo("AuthenticAMD", "avx"), None),
    "ARM": ("processor : 0\nCPU implementer : 0x48\nFeatures : fp asimd\n", None),
    "nothing known": ("", None),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_mkl_cpu_type(machine):
    text, wanted = MACHINES[machine]
    environ = {}
    settings = {setting.name: setting for setting in tune_cpu(environ, text)}
    assert environ.get("MKL_DEBUG_CPU_TYPE") == wanted
    assert settings["MKL_DEBUG_CPU_TYPE"].value == wanted
    assert all(setting.reason for setting in settings.values())


def test_the_users_own_settings_win():
    own = {"MKL_DEBUG_CPU_TYPE": "4", "MKL_NUM_THREADS": "3", "FLAGS_use_stride_kernel": "1"}
    environ = dict(own)
    settings = tune_cpu(environ, MACHINES["AMD AVX2"][0])
    assert environ == own
    assert [(setting.value, setting.reason) for setting in settings] == [
        (value, "set by the user") for value in own.values()
    ]


def test_threads_are_the_usable_cores(monkeypatch):
    environ = {}
    tune_cpu(environ, "")
    assert environ["MKL_NUM_THREADS"] == str(usable_cores()) == str(len(os.sched_getaffinity(0)))
    monkeypatch.setattr("glm.device.tuning.usable_cores", lambda: 12)
    assert threads({}) == "12"


def test_a_process_that_may_use_one_core_uses_one():
    code = "import glm; print({s.name: s.value for s in glm.CPU_SETTINGS}['MKL_NUM_THREADS'])"
    output = run_python(f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {code}")
    assert output.split() == ["1"]


def threads(environ: dict[str, str]) -> str | None:
    tune_cpu(environ, "")
    return environ.get("MKL_NUM_THREADS")


def test_the_users_omp_threads_win(monkeypatch):
    monkeypatch.setattr("glm.device.tuning.usable_cores", lambda: 12)
    assert threads({"OMP_NUM_THREADS": "3"}) == "3"
    assert threads({"OMP_NUM_THREADS": "1"}) == "1"


@pytest.mark.parametrize(("ranks", "wanted"), [("1", "12"), ("2", "6"), ("5", "2"), ("16", "1")])
def test_launched_ranks_share_the_cores(monkeypatch, ranks, wanted):
    """Paddle's launcher sets OMP_NUM_THREADS to 1 in every rank, which nobody asked for."""
    monkeypatch.setattr("glm.device.tuning.usable_cores", lambda: 12)
    launched = {"PADDLE_TRAINER_ID": "0", "PADDLE_LOCAL_SIZE": ranks, "OMP_NUM_THREADS": "1"}
    assert threads(dict(launched)) == wanted
    assert threads(launched | {"OMP_NUM_THREADS": "4"}) == "4"


def test_strides_stay_on_for_custom_devices():
    for environ, wanted in (({}, "0"), ({"CUSTOM_DEVICE_ROOT": "/plugin"}, None), ({"CUSTOM_DEVICE_ROOT": ""}, "0")):
        tune_cpu(environ, "")
        assert environ.get("FLAGS_use_stride_kernel") == wanted


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_the_users_allocator_wins(name):
    setting = keep_freed_memory({name: "1"})
    assert setting.value is None and setting.reason == f"{name} set by the user"


def test_freed_memory_is_kept_elsewhere():
    assert keep_freed_memory({}).value == "mmap_max=0"


def test_the_best_device_is_chosen():
    assert choose_device() == next(iter(device_counts()))
    assert choose_device("cpu") == "cpu"
    assert "cpu" in device_counts()


@pytest.fixture
def machine(monkeypatch):
    """Makes up a machine and the variables of a launcher."""

    def made(counts: dict[str, int], **launched: str):
        for module in ("choice", "__main__"):
            monkeypatch.setattr(f"glm.device.{module}.device_counts", lambda: counts)
        for kind in ("npu", "gpu"):
            monkeypatch.delenv(f"FLAGS_selected_{kind}s", raising=False)
        for kind, number in launched.items():
            monkeypatch.setenv(f"FLAGS_selected_{kind}s", number)

    return made


@pytest.mark.parametrize("wanted", ["tpu", "npu:0", "npu", "CPU", "cpux"])
def test_a_device_that_is_not_there(machine, wanted):
    machine({"gpu": 2, "cpu": 1})
    with pytest.raises(UsageError) as error:
        choose_device(wanted)
    assert str(error.value) == f"device '{wanted}' is not on this machine; found: gpu, cpu"


@pytest.mark.parametrize("wanted", ["npu:", "npu:x", "npu:-1", "npu:1:0", "cpu:0"])
def test_a_number_that_is_none(machine, wanted):
    machine({"npu": 2, "cpu": 1})
    with pytest.raises(UsageError, match=f"^device '{wanted}' has a wrong number: write (npu or npu:0|cpu)$"):
        choose_device(wanted)


@pytest.mark.parametrize(
    ("counts", "wanted", "there"),
    [({"npu": 2}, "npu:3", "2 npus, npu:0 to npu:1"), ({"npu": 1}, "npu:1", "1 npu, npu:0")],
)
def test_a_number_beyond_the_last(machine, counts, wanted, there):
    machine(counts)
    with pytest.raises(UsageError) as error:
        choose_device(wanted)
    assert str(error.value) == f"device '{wanted}' is not on this machine, which has {there}"


def test_numbers_on_one_process(machine):
    machine({"npu": 2, "gpu": 1, "cpu": 1})
    assert [choose_device(wanted) for wanted in (None, "npu", "npu:1", "gpu:0", "cpu")] == [
        "npu",
        "npu",
        "npu:1",
        "gpu:0",
        "cpu",
    ]


@pytest.mark.parametrize("selected", ["1", "1,0"])
def test_a_launched_process_gets_its_own_device(machine, selected):
    machine({"npu": 2, "cpu": 1}, npu=selected)
    assert choose_device() == choose_device("npu") == choose_device("npu:1") == "npu:1"
    assert choose_device("cpu") == "cpu"
    with pytest.raises(UsageError, match=r"^device 'npu:0' is another process's: the launcher gave this one npu:1"):
        choose_device("npu:0")
    machine({"gpu": 4, "cpu": 1}, gpu="3")
    assert choose_device() == "gpu:3"


def test_more_launched_than_there_are(machine):
    machine({"npu": 2}, npu="3")
    with pytest.raises(UsageError, match=r"^device 'npu:3' is not on this machine, which has 2 npus, npu:0 to npu:1$"):
        choose_device()


def test_half_precision_on_a_cpu():
    check_dtype(None, "cpu")
    check_dtype("float32", "cpu")
    check_dtype("float16", "gpu:1")
    with pytest.raises(UsageError, match="--dtype float16 needs a GPU or an NPU"):
        check_dtype("float16", "cpu")


def run_python(code: str, **environ) -> str:
    keep = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=keep | environ, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_python_m_glm_device():
    result = subprocess.run([sys.executable, "-m", "glm.device"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"device: {next(iter(device_counts()))}  (found: ")
    names = [line.split(":")[0] for line in lines[1:]]
    assert names == ["MKL_DEBUG_CPU_TYPE", "MKL_NUM_THREADS", "FLAGS_use_stride_kernel", "mallopt", "kernels"]


device_command = partial(run_main, main)


def test_the_command_takes_a_device(machine, monkeypatch, capsys):
    machine({"npu": 2, "cpu": 1})
    code, out, _ = device_command(monkeypatch, capsys, "--device", "cpu")
    assert code == 0
    assert out.startswith("device: cpu  (found: 2 npus, cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "npu"], "device 'npu' is not on this machine; found: cpu"),
        (["--nonsense"], "unknown argument --nonsense (see --help)"),
        (["--devic", "cpu"], "unknown argument --devic; did you mean --device? (see --help)"),
    ],
)
def test_wrong_arguments_are_one_line(machine, monkeypatch, capsys, arguments, message):
    machine({"cpu": 1})
    assert device_command(monkeypatch, capsys, *arguments) == (2, "", f"error: {message}\n")


def test_help_names_the_command(monkeypatch, capsys):
    code, out, _ = device_command(monkeypatch, capsys, "--help")
    assert code == 0
    assert out.startswith("usage: python -m glm.device [-h] [--debug] [--device DEVICE]\n")


def test_importing_glm_sets_the_environment_before_paddle():
    code = "import os, glm; print(os.environ['MKL_NUM_THREADS'], os.environ['FLAGS_use_stride_kernel'])"
    assert run_python(code).split() == [str(usable_cores()), "0"]
    assert run_python(code, MKL_NUM_THREADS="1", FLAGS_use_stride_kernel="1").split() == ["1", "1"]


HELD = """
import resource, glm
{before}
array = bytearray(64 << 20)  # larger than what glibc takes from its heap by itself
array = None
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]) * resource.getpagesize() > 64 << 20, [s.name for s in glm.CPU_SETTINGS][-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize(
    ("before", "off", "kept"),
    [("", {}, False), ("glm.tune(); glm.tune()", {}, True), ("glm.tune()", {"GLM_TUNE": "0"}, False)],
    ids=["import", "tune", "switched off"],
)
def test_freed_memory_is_kept_where_that_was_asked_for(before, off, kept):
    last = "mallopt" if before else "FLAGS_use_stride_kernel"
    assert run_python(HELD.format(before=before), **off).split() == [str(kept), last]


def test_a_script_keeps_freed_memory():
    code = "from glm.cli.script import run_script; import glm; run_script(lambda: print(glm.CPU_SETTINGS[-1].value))"
    assert run_python(code).strip() == "mmap_max=0"
    assert run_python(code, GLM_TUNE="off").strip() == "None"


HUGE = """
import glm
{before}
array = bytearray(64 << 20)
with open("/proc/self/smaps_rollup") as file:
    huge = next(int(line.split()[1]) for line in file if line.startswith("AnonHugePages"))
print(huge > 32 << 10, [s.name for s in glm.CPU_SETTINGS].count("madvise"))
"""


@needs_huge_pages
@pytest.mark.parametrize(
    ("before", "environ", "wanted"),
    [
        ("glm.tune(); glm.tune_for_generation(); glm.tune_for_generation()", {}, "True 1"),
        ("glm.tune()", {}, "False 0"),
        ("glm.tune_for_generation()", {}, "False 0"),
        ("glm.tune(); glm.tune_for_generation()", {"GLM_TUNE": "0"}, "False 0"),
        ("glm.tune(); glm.tune_for_generation()", {"MALLOC_ARENA_MAX": "2"}, "False 0"),
    ],
    ids=["tuned", "training", "a program's own", "switched off", "the user's allocator"],
)
def test_weights_lie_in_huge_pages_where_a_process_is_tuned(before, environ, wanted):
    assert run_python(HUGE.format(before=before), **environ).strip() == wanted


LIMITED = """
import resource, glm
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
glm.tune(); glm.tune_for_generation()
print(len(bytearray(64 << 20)) >> 20, glm.CPU_SETTINGS[-1].value, glm.CPU_SETTINGS[-1].reason)
"""


@needs_huge_pages
def test_a_process_that_may_not_reserve_so_much_goes_on():
    told = run_python(LIMITED).strip()
    assert told.startswith("64 None ") and told.endswith("GiB of addresses are more than this process may reserve")


@pytest.mark.parametrize(
    ("said", "reason"),
    [("[always] madvise never", "huge pages for all already"), ("always madvise [never]", "no huge pages here")],
)
def test_who_gets_huge_pages_is_the_systems_choice(tmp_path, said, reason):
    (tmp_path / "enabled").write_text(said)
    assert use_huge_pages(tmp_path / "enabled").reason == reason
    assert use_huge_pages(tmp_path / "nothing").reason == "no huge pages here"


OPENERS = {
    "session": "from glm.runtime.onnx_session import CPU, open_session as run; given = Path('{junk}'), 1, [CPU]",
    "model": "from glm.api.loading import load_merged_model as run; given = ('{junk}',)",
}


@pytest.mark.parametrize("opener", OPENERS)
def test_whoever_opens_a_model_to_generate_asks_for_them(tmp_path, opener):
    """Also for one that cannot be opened: before that."""
    (junk := tmp_path / "glm.onnx").write_bytes(b"junk")
    lines = ["import glm; from glm.errors import GLMError; from pathlib import Path; glm.tune()", OPENERS[opener]]
    lines += ["try: run(*given)", "except GLMError: print(glm.CPU_SETTINGS[-1].name)"]
    assert run_python("\n".join(lines).format(junk=junk)).strip() == "madvise"


def test_importing_glm_changes_no_more_than_it_says():
    """The environment variables of docs/devices.md, and with GLM_TUNE=0 nothing at all."""
    code = "import os; before = dict(os.environ); import glm; print(sorted(os.environ.items() - before.items()))"
    changed = {name for name, _ in ast.literal_eval(run_python(code))}
    assert {"MKL_NUM_THREADS", "FLAGS_use_stride_kernel"} <= changed
    assert changed <= {"MKL_NUM_THREADS", "FLAGS_use_stride_kernel", "MKL_DEBUG_CPU_TYPE"}
    for off in ("0", "false", "OFF"):
        assert run_python(code, GLM_TUNE=off).strip() == "[]"
    reasons = "import glm; print({s.reason for s in glm.CPU_SETTINGS}, glm.CPU_SETTINGS[1].value)"
    assert run_python(reasons, GLM_TUNE="0", MKL_NUM_THREADS="3").strip() == "{'GLM_TUNE is 0'} 3"
    text = (ROOT / "docs" / "devices.md").read_text("utf-8")
    assert all(name in text for name in (*changed, "GLM_TUNE=0", "glm.tune()"))


LIGHT = [
    "glm",
    "glm.tokenizers",
    "glm.generation.options",
    "glm.device.choice",
    "glm.errors",
    "glm.datasets",
    "glm.checkpoint",
]
LIGHT += ["glm.datasets.preprocess", "glm.engine", "glm.runtime.step", "glm.runtime.onnx_step", "glm.serving.server"]
LIGHT += ["glm.serving.export_service", "glm.checkpoint.convert", "glm.memory.__main__", "glm.cli.console"]
LIGHT += ["glm.cli.multiple_choice"]


def test_serving_imports_no_framework():
    """Neither PaddleNLP (5 s) nor Paddle comes with what reads texts and options."""
    code = (
        f"import sys, {', '.join(LIGHT)}; print([m for m in sys.modules if m.split('.')[0] in ('paddle', 'paddlenlp')])"
    )
    assert run_python(code).strip() == "[]"
    names = "from glm import GenerationConfig, GLMTokenizer; import sys; print('paddle' in sys.modules)"
    assert run_python(names).strip() == "False"


def test_a_runtime_imports_no_paddlenlp():
    code = "import sys, glm.runtime.paddle_inference; print('paddle' in sys.modules, 'paddlenlp' in sys.modules)"
    assert run_python(code).strip() == "True False"


def test_glm_has_no_other_names():
    with pytest.raises(AttributeError, match="module 'glm' has no attribute 'GLM5'"):
        import glm

        _ = glm.GLM5
