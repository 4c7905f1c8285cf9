# make guide   the Keras RNN guide on handwritten digits, with Ostinato's layers
# make test    lint, types, and every test on JAX, PyTorch and TensorFlow
#
# Both need python3 (>= 3.11) and make, nothing else: they make a virtual environment where it's
# missing, and again where pyproject.toml has changed. Without a C++ compiler the package installs all
# the same, without its native engine, and that engine's tests are skipped; CI insists on it, by
# OSTINATO_REQUIRE_NATIVE=1.

PYTHON ?= python3
# What one may add: make test JOBS=1 PYTEST="-k masks"; make guide GUIDE="--quick --output report"
JOBS ?= 2
PYTEST ?=
GUIDE ?=
# Of options crossed at random, in the core's tests.
CASES ?= 100
BENCH ?=
# This exact release, and first: its wheel may be the small one for CPUs, where a later one, or a
# range, brings gigabytes of CUDA.
TORCH ?= torch==2.13.0
# Exact versions, for a checkout that's older than its packages: make CONSTRAINTS=constraints.txt test
CONSTRAINTS ?=
# The oldest that pyproject.toml declares. It's put before the newest on the path of its tests: those
# of what Keras's version can change. What isn't in these lists, a new folder say, runs on it with each
# backend; what asks Keras nothing that a backend answers in its own way, with the quickest.
OLDEST_KERAS := 3.10.0
ON_OLDEST_WITH_TORCH := tools/test_accelerate* tools/test_stream* tools/test_keras2* tools/test_load_model* \
	tools/test_left_alone* tools/test_torch_weights* programs/test_[!t]* programs/test_tracing.py \
	programs/test_tracing_r* layers/test_conv_lstm* layers/test_precision* \
	layers/test_serialization* layers/test_bidirectional* layers/test_time_distributed* \
	layers/test_errors* layers/test_sizes* layers/test_cell_quirks* layers/test_dropout_masks* \
	engines/test_against_r* engines/test_cost* engines/test_public_cells* engines/test_resets* \
	engines/test_fused*
NOT_ON_OLDEST := native cuda docs guide examples tools/test_bench.py tools/test_gpu_script.py \
	tools/test_torch_refusals.py tools/test_quantize.py tools/test_stream_c.py tools/test_stream_rows.py \
	tools/test_stream_files.py tools/test_stream_errors.py tools/test_stream_refusals.py \
	engines/test_jax_transforms.py engines/test_jax_derivatives.py engines/test_torch_modes.py \
	engines/test_activation_names.py engines/test_bfloat16.py engines/test_cudnn.py engines/test_int8.py \
	engines/test_long_sequences.py layers/test_names.py test_plan.py test_cli.py
BACKENDS := torch jax tensorflow # the slowest first
# Of `make gpu-carry`: the Python of the machine with a GPU, and what Keras and the checks need there.
GPU_PYTHON ?= python3.12
GPU_NEEDS := absl-py h5py hypothesis markdown-it-py mdurl ml-dtypes namex optree packaging pygments rich \
	sortedcontainers typing-extensions
GPU_PLATFORMS := manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64
# Of `make wheel`: the Python that tries it, and the JAX.
TRY ?= $(PYTHON)
JAX ?= jax

BIN := .venv/bin
OLDEST := .keras-$(OLDEST_KERAS)
READY := .venv/ready
GUIDE_READY := .venv-guide/ready
PIP := -m pip --disable-pip-version-check
PIP_INSTALL := $(PIP) install --quiet
# As an option, not as PIP_CONSTRAINT, which would hold for the packages that the build needs, too.
CONSTRAINED := $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

WORKERS := $(patsubst 1,0,$(JOBS)) # of pytest-xdist: one is no better than none, and has to be asked
comma := ,
define core_tests
$(BIN)/cmake -S . -B build/$(1) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja --log-level=WARNING \
	-DOSTINATO_PYTHON=OFF -DOSTINATO_TESTS=ON $(2)
$(BIN)/cmake --build build/$(1) --parallel $(JOBS)
$(BIN)/ctest --test-dir build/$(1) --output-on-failure --parallel $(JOBS)
endef

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: guide test lint types native test-core test-once sanitize sanitize-quick format \
	wheel docs constraints bench gpu gpu-carry long long-core long-gpu clean $(BACKENDS:%=long-%) \
	$(BACKENDS:%=test-%) $(BACKENDS:%=oldest-%)
ifndef SIDE_BY_SIDE
.NOTPARALLEL:
endif
.DELETE_ON_ERROR:

guide: $(GUIDE_READY)
	.venv-guide/bin/ostinato guide $(GUIDE)

# Two parts at a time, the longest first, each with half of the processes: each process has to import its
# framework and to collect all tests first, and at a part's end some wait for the last. One thread of
# PyTorch's each: several wait for each other, which is a fifth of the time of small layers beside other work.
PARTS := lint types $(BACKENDS:%=test-%) sanitize-quick oldest-tensorflow oldest-torch oldest-jax test-once
test: export OMP_NUM_THREADS ?= 1
test: $(READY) $(OLDEST)/ready
	@$(MAKE) --no-print-directory SIDE_BY_SIDE=1 JOBS=$(shell expr $(JOBS) / 2) \
		-j$(if $(filter 0 1,$(JOBS)),1,2) $(if $(filter output-sync,$(.FEATURES)),-Otarget) $(PARTS)

# Ruff's cache keeps an import order that was right when `support` lay elsewhere, so what passed here
# failed in a fresh clone. Without it the whole takes 0.04 s.
lint: $(READY)
	@printf '\n== Lint\n'
	$(BIN)/ruff check --no-cache
	$(BIN)/ruff format --no-cache --check

types: $(READY)
	@printf '\n== Types\n'
	$(BIN)/mypy

# What needs no backend. In the rest pytest leaves this folder out.
test-once: $(READY)
	@printf '\n== Tests that need no backend\n'
	$(BIN)/pytest -q -n $(WORKERS) tests/no_backend $(PYTEST)

$(BACKENDS:%=test-%): test-%: $(READY)
	@printf '\n== Tests on %s\n' $*
	KERAS_BACKEND=$* $(BIN)/pytest -q -n $(WORKERS) $(PYTEST)

$(BACKENDS:%=oldest-%): oldest-%: $(READY) $(OLDEST)/ready
	@printf '\n== Tests on %s with Keras %s\n' $* $(OLDEST_KERAS)
	OSTINATO_EXAMPLES=0.25 KERAS_BACKEND=$* PYTHONPATH=$(CURDIR)/$(OLDEST) $(BIN)/pytest -q -n $(WORKERS) -m "not slow" \
		$(NOT_ON_OLDEST:%=--ignore=tests/%) \
		$(if $(filter-out torch,$*),$(ON_OLDEST_WITH_TORCH:%='--ignore-glob=tests/%')) $(PYTEST)

# Everything on every backend: of what hardly differs `test` has a sample on those that compile. And the
# examples, as long as their pages have them.
long: long-core $(BACKENDS:%=long-%)

long-core:
	@$(MAKE) --no-print-directory test-core CASES=1000

$(BACKENDS:%=long-%): long-%: $(READY)
	@printf '\n== All tests on %s\n' $*
	OSTINATO_LONG=1 KERAS_BACKEND=$* $(BIN)/pytest -q -n $(WORKERS) $(PYTEST)

# What surrounds the engines for a GPU, at more length than there's time for in `test`: thousands of random
# cases around cuDNN, and NVRTC's code for every configuration of the CUDA kernel.
long-gpu: $(READY)
	@printf '\n== Random cases around cuDNN\n'
	OSTINATO_FUZZ=1000 KERAS_BACKEND=torch $(BIN)/pytest -q -n $(WORKERS) tests/engines/test_cudnn.py $(PYTEST)
	@printf '\n== Every configuration of the CUDA kernel\n'
	OSTINATO_EVERY=1 KERAS_BACKEND=torch $(BIN)/pytest -q -n $(WORKERS) tests/cuda -k every $(PYTEST)

# Keras as it will be, of last night. What fails says what has to be mended here, or told to Keras.
nightly-%: $(READY)
	@printf '\n== Tests on %s with the nightly Keras\n' $*
	rm -rf .keras-nightly
	$(BIN)/python $(PIP_INSTALL) --no-deps --target .keras-nightly keras-nightly
	KERAS_BACKEND=$* PYTHONPATH=$(CURDIR)/.keras-nightly $(BIN)/pytest -q -n $(WORKERS) -m "not slow" \
		$(NOT_ON_OLDEST:%=--ignore=tests/%) $(PYTEST)

# The native engine alone, again: without isolation, in a folder that's kept.
native: $(READY)
	OSTINATO_REQUIRE_NATIVE=1 $(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation \
		--config-settings build-dir=build/native --editable .

test-core: $(READY)
	@printf '\n== Tests of the native core\n'
ifeq ($(shell command -v $(CXX)),)
	@test -z "$$OSTINATO_REQUIRE_NATIVE" && echo 'skipped: no C++ compiler'
else
	$(call core_tests,core,-DOSTINATO_CASES=$(CASES))
endif

# Both at once, in short, for `test`: few cases, and the sanitizers watch the core and its kernels for any
# CPU; those for newer ones, and the tests themselves, are compiled in half the time without.
sanitize-quick: export ASAN_OPTIONS := malloc_context_size=0
sanitize-quick: $(READY)
	@printf '\n== Tests of the native core, with AddressSanitizer and UBSan, in short\n'
ifeq ($(shell command -v $(CXX)),)
	@test -z "$$OSTINATO_REQUIRE_NATIVE" && echo 'skipped: no C++ compiler'
else
	$(call core_tests,asan-quick,-DOSTINATO_SANITIZE=address$(comma)undefined -DOSTINATO_CASES=20 \
		-DOSTINATO_SANITIZE_IN_SHORT=ON)
endif

# The core and its tests once more, watched for errors of memory, undefined behaviour and races.
sanitize: $(READY)
	@printf '\n== Tests of the native core with AddressSanitizer and UBSan\n'
	$(call core_tests,asan,-DOSTINATO_SANITIZE=address$(comma)undefined -DOSTINATO_CASES=60)
	@printf '\n== Tests of the native core with ThreadSanitizer\n'
	$(call core_tests,tsan,-DOSTINATO_SANITIZE=thread -DOSTINATO_CASES=60)

format: $(READY)
	$(BIN)/ruff check --no-cache --fix
	$(BIN)/ruff format

# A wheel as it's released, built in isolation, and tried in an environment that knows nothing of this
# checkout. One from Python 3.12 on is for all later ones: make wheel PYTHON=python3.12 TRY=python3.13
wheel:
	@printf '\n== A wheel\n'
	rm -rf dist build/try
	OSTINATO_REQUIRE_NATIVE=1 $(PYTHON) $(PIP) wheel --quiet --no-deps --wheel-dir dist .
	$(TRY) -m venv build/try
	build/try/bin/python $(PIP_INSTALL) '$(JAX)' flatbuffers pytest hypothesis dist/*.whl
	@ls dist
	build/try/bin/python -m pytest -q -p no:cacheprovider tests/no_backend/test_core.py
	KERAS_BACKEND=jax build/try/bin/python -m pytest -q -p no:cacheprovider tests/native/test_jax_door.py

# Writes the file for CONSTRAINTS: what .venv has now, which should be what has just passed all tests.
constraints: $(READY)
	{ sed '/^[^#]/,$$d' constraints.txt; $(BIN)/python $(PIP) freeze --exclude-editable | sed 's/+cpu$$//'; } \
		> build/constraints.txt
	mv build/constraints.txt constraints.txt

# The documentation site, in build/site. Broken links and anchors fail.
docs: $(READY)
	$(BIN)/python docs/site.py
	$(BIN)/zensical build --config-file mkdocs.yml --strict --clean

# Long; in parts by BENCH="peers --cases S M", which adds to what is in benchmarks/results.
bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH)

# What is right and how fast it is on an NVIDIA GPU, in stages, in eight minutes; into $OUT, else into
# benchmarks/measured/gpu. KERAS_BACKEND=torch make gpu GPU=--fake tries the script without a GPU.
gpu:
	$(PYTHON) -m benchmarks.gpu $(GPU)

# What a machine without Keras and a network needs for that, in build/gpu: 53 MB of packages, and the
# native engine, which makes the programs that the CUDA kernels are written from.
gpu-carry: $(READY)
	rm -rf build/gpu build/gpu-wheel
	$(BIN)/python $(PIP_INSTALL) --target build/gpu --no-compile --no-deps --only-binary :all: \
		--implementation cp --python-version $(GPU_PYTHON:python%=%) $(GPU_PLATFORMS:%=--platform %) \
		keras==$$($(BIN)/python -c 'from importlib import metadata; print(metadata.version("keras"))') $(GPU_NEEDS)
	OSTINATO_REQUIRE_NATIVE=1 $(GPU_PYTHON) $(PIP) wheel --quiet --no-deps --wheel-dir build/gpu-wheel .
	$(BIN)/python -m zipfile -e build/gpu-wheel/*.whl build/gpu-wheel
	mkdir build/gpu/ostinato
	mv build/gpu-wheel/ostinato/_native*.so build/gpu/ostinato
	rm -rf build/gpu-wheel
	du -sh build/gpu

clean:
	rm -rf .venv .venv-guide .keras-* .hypothesis .mypy_cache .pytest_cache .ruff_cache \
		build dist ostinato-guide
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@printf '\n== Environment for the tests: Keras, its three backends and the tools (a few GB)\n'
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) $(CONSTRAINED) '$(TORCH)'
	$(BIN)/python $(PIP_INSTALL) $(CONSTRAINED) --editable '.[jax,torch,guide,docs,dev]'
# Keras 2, a peer of the benchmark, asks for the package tensorflow, which tensorflow-cpu is. aeon, whose
# data two examples read, would bring older versions of NumPy and pandas.
	$(BIN)/python $(PIP_INSTALL) $(CONSTRAINED) --no-deps tf_keras aeon
	touch $@

$(GUIDE_READY): pyproject.toml
	@printf '\n== Environment for the guide: Keras and JAX\n'
	$(PYTHON) -m venv .venv-guide
	.venv-guide/bin/python $(PIP_INSTALL) --editable '.[jax,guide]'
	touch $@

$(OLDEST)/ready: $(READY)
	@printf '\n== Keras %s\n' $(OLDEST_KERAS)
	rm -rf $(OLDEST)
	$(BIN)/python $(PIP_INSTALL) --no-deps --target $(OLDEST) keras==$(OLDEST_KERAS)
	touch $@
