# make setup          install the pinned requirements into .venv; make PYTHON=/path/to/python3.11 setup chooses the Python
# make quickstart     install, then train, evaluate, export and run a small GLM (a few minutes on two cores)
# make check          install, check the style, run the quick tests that start no processes
# make test           the same, and those that start processes or compute for long
# make test-all       the same, and the slow tests
# make lint           install, check the style
# make bench          install, also torch and llama.cpp beside it, then measure this project beside its peers (docs/benchmarks.md)
# make npu-simulator  install, then build the simulated NPU, on which `--device npu` runs anywhere, and say how to use it
# make lock           write requirements.lock and requirements-bench.lock anew
# make clean          remove what was installed, and output/
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# Tests run in two processes of one thread each: most are too small for two threads. WORKERS=0 runs them in one.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile
# The peers of `make bench`: torch must not get into the project's own environment.
BENCH_VENV ?= .venv-bench
BENCH_PY := $(BENCH_VENV)/bin/python
BENCH_READY := $(BENCH_VENV)/.ready
# llama.cpp for this processor, without its image models.
BENCH_CMAKE := -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF

.PHONY: help setup quickstart check test test-all lint bench npu-simulator lock clean

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

test-all: lint
	@$(PYTEST)

$(BENCH_READY): requirements-bench.lock tools/find_python.sh
	@rm -rf $(BENCH_VENV)
	@echo "installing torch, transformers, PEFT and llama.cpp into $(BENCH_VENV): llama.cpp is compiled, five to ten minutes"
	@python="$$(sh tools/find_python.sh)" && "$$python" -m venv $(BENCH_VENV)
	@CMAKE_ARGS="$(BENCH_CMAKE)" CMAKE_BUILD_PARALLEL_LEVEL=$$(nproc) \
	  $(BENCH_PY) -m pip install --quiet --use-pep517 --disable-pip-version-check --requirement requirements-bench.lock
	@$(BENCH_PY) -m pip check
	@touch $(BENCH_READY)

bench: $(READY) $(BENCH_READY)
	@$(PY) -m benchmarks --write_docs --peers_python $(abspath $(BENCH_PY))
	@$(PY) -m benchmarks.preprocess

npu-simulator: $(READY)
	@folder="$$($(PY) tests/npu_simulator/build.py)" || exit 1; \
	printf '%s\n' "The simulated NPU is built. Every command of this project runs on it like this:" \
	  "  CUSTOM_DEVICE_ROOT=$$folder $(PY) finetune_generation.py --device npu …" \
	  "  CUSTOM_DEVICE_ROOT=$$folder $(PY) -m paddle.distributed.launch --devices 0,1 finetune_generation.py --device npu …"

lock:
	@python3 tools/lock.py

clean:
	rm -rf $(VENV) $(BENCH_VENV) output
