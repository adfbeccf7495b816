# make setup          install the pinned requirements into .venv; make PYTHON=/path/to/python3.11 setup chooses the Python
# make quickstart     install, then train, evaluate, export and run a small GLM (a few minutes on two cores)
# make check          install, check the style, run the quick tests that start no processes
# make test           the same, and those that start processes or compute for long
# make test-all       the same, and the slow tests
# make test-harness   lm-evaluation-harness beside this project: the tests that test, without it, skips
# make fastdeploy     FastDeploy 1.0.7 in .venv-fastdeploy, where there is a Python 3.10: the tests of it, without it, skip
# make lint           install, check the style
# make bench          install, also torch and llama.cpp beside it, then measure this project beside its peers (a page in docs for each kind of processor)
# make npu-simulator  install, then build the simulated NPU, on which `--device npu` runs anywhere, and say how to use it
# make cpp            install, then build glm_infer and libglm into output/cpp: inference in C++ (docs/cpp.md)
# make lock           write requirements.lock and those of serving and of the benchmarks anew
# make clean          remove what was installed, and output/
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# Tests run in two processes of one thread each: most are too small for two threads. WORKERS=0 runs them in one.
WORKERS ?= 2
# Where bytecode is not kept, every process of every test compiles the suite anew.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile
# The peers of `make bench`: torch must not get into the project's own environment.
BENCH_VENV ?= .venv-bench
BENCH_PY := $(BENCH_VENV)/bin/python
BENCH_READY := $(BENCH_VENV)/.ready
# llama.cpp for this processor, without its image models, and without AMX, in whose kernels 0.3.36 ends by SIGILL.
BENCH_CMAKE := -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__

# lm-evaluation-harness needs an older python-dateutil than the lock has: beside .venv, whose packages it sees.
HARNESS_VENV ?= .venv-harness
HARNESS_PY := $(HARNESS_VENV)/bin/python
HARNESS_READY := $(HARNESS_VENV)/.ready

# FastDeploy 1.0.7 has wheels for CPython 3.8 to 3.10, and this project starts at 3.10.
FASTDEPLOY_VENV ?= .venv-fastdeploy
FASTDEPLOY_READY := $(FASTDEPLOY_VENV)/.ready
FASTDEPLOY_PYTHON ?= python3.10 $(wildcard $(HOME)/.pyenv/versions/3.10*/bin/python3.10)

.PHONY: help setup quickstart check test test-all test-harness fastdeploy lint bench npu-simulator cpp lock clean

help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(READY)

# The marker is written last, so an interrupted install starts again.
$(READY): requirements.lock tools/find_python.sh
	@rm -rf $(VENV)
	@echo "installing the pinned requirements into $(VENV), one to three minutes"
	@python="$$(sh tools/find_python.sh)" && "$$python" -m venv $(VENV)
	@$(PY) -m pip install --quiet --use-pep517 --disable-pip-version-check --requirement requirements.lock
	@$(PY) -m pip check
	@touch $(READY)

quickstart: $(READY)
	@$(PY) tools/quickstart.py

lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

# Which tests start processes is read off their code: tests/tiers.py.
check: lint
	@$(PYTEST) -m "not slow and not process and not long"

test: lint
	@$(PYTEST) -m "not slow"

test-all: lint test-harness fastdeploy
	@$(PYTEST)

$(HARNESS_READY): $(READY) requirements-harness.txt
	@rm -rf $(HARNESS_VENV)
	@echo "installing lm-evaluation-harness into $(HARNESS_VENV)"
	@$(PY) -m venv $(HARNESS_VENV)
	@$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > "$$($(HARNESS_PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth"
	@$(HARNESS_PY) -m pip install --quiet --use-pep517 --disable-pip-version-check --requirement requirements-harness.txt
	@touch $(HARNESS_READY)

# A machine without Python 3.10 goes on without FastDeploy.
fastdeploy:
	@if python="$$(PYTHON="$(FASTDEPLOY_PYTHON)" sh tools/find_python.sh 2>/dev/null)"; \
	then $(MAKE) --no-print-directory $(FASTDEPLOY_READY) FASTDEPLOY_PYTHON="$$python" \
	  || { rm -rf $(FASTDEPLOY_VENV); echo "FastDeploy could not be installed: its tests skip"; }; \
	else echo "no Python 3.10 found, for which FastDeploy 1.0.7 has wheels: its tests skip; name one: make fastdeploy FASTDEPLOY_PYTHON=/path/to/python3.10"; fi

$(FASTDEPLOY_READY): requirements-serve.lock requirements-fastdeploy.txt
	@rm -rf $(FASTDEPLOY_VENV)
	@echo "installing FastDeploy 1.0.7 into $(FASTDEPLOY_VENV): 216 MB"
	@$(FASTDEPLOY_PYTHON) -m venv $(FASTDEPLOY_VENV)
	@$(FASTDEPLOY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-serve.lock \
	  --requirement requirements-fastdeploy.txt
	@$(FASTDEPLOY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps fastdeploy-python==1.0.7
	@touch $(FASTDEPLOY_READY)

test-harness: $(HARNESS_READY)
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(HARNESS_PY) -m pytest tests/evaluation/harness

$(BENCH_READY): requirements-bench.lock tools/find_python.sh tools/llama_server.py
	@rm -rf $(BENCH_VENV)
	@echo "installing torch, transformers, PEFT and llama.cpp into $(BENCH_VENV): llama.cpp is compiled, five to ten minutes"
	@python="$$(sh tools/find_python.sh)" && "$$python" -m venv $(BENCH_VENV)
	@CMAKE_ARGS="$(BENCH_CMAKE)" CMAKE_BUILD_PARALLEL_LEVEL=$$(nproc) \
	  $(BENCH_PY) -m pip install --quiet --use-pep517 --disable-pip-version-check --requirement requirements-bench.lock
	@$(BENCH_PY) -m pip check
	@echo "building llama.cpp's server, as long again"
	@$(BENCH_PY) tools/llama_server.py
	@touch $(BENCH_READY)

bench: $(READY) $(BENCH_READY)
	@$(PY) -m benchmarks --write_docs --peers_python $(abspath $(BENCH_PY))
	@$(PY) -m benchmarks.preprocess

npu-simulator: $(READY)
	@folder="$$($(PY) tests/npu_simulator/build.py)" || exit 1; \
	printf '%s\n' "The simulated NPU is built. Every command of this project runs on it like this:" \
	  "  CUSTOM_DEVICE_ROOT=$$folder $(PY) finetune_generation.py --device npu …" \
	  "  CUSTOM_DEVICE_ROOT=$$folder $(PY) -m paddle.distributed.launch --devices 0,1 finetune_generation.py --device npu …"

# Against the wheels of .venv, and FastDeploy's if `make fastdeploy` installed it; CPP_OPTIONS=-DGLM_ONNXRUNTIME=/opt/onnxruntime
# takes an official SDK instead. Options that are not given are empty: an earlier run's would be remembered.
CPP_OPTIONS ?=
CPP_FASTDEPLOY := $(wildcard $(FASTDEPLOY_VENV)/lib/python3*/site-packages/fastdeploy/libs)
cpp: $(READY)
	@for program in cmake c++; do command -v $$program > /dev/null || \
	  { echo "make cpp needs $$program: apt-get install g++ cmake libsentencepiece-dev nlohmann-json3-dev" >&2; exit 1; }; done
	@cmake -S cpp -B output/cpp -DGLM_PYTHON=$(abspath $(PY)) \
	  -DGLM_FASTDEPLOY=$(abspath $(CPP_FASTDEPLOY)) -DGLM_ONNXRUNTIME= -DGLM_PADDLE= $(CPP_OPTIONS)
	@cmake --build output/cpp --parallel
	@echo "built: output/cpp/glm_infer --model_path DIRECTORY …; a program of one's own: docs/cpp.md"

lock:
	@python3 tools/lock.py

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(HARNESS_VENV) $(FASTDEPLOY_VENV) output
