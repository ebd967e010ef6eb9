# Developer commands; `make help` lists them. CONTRIBUTING.md says when to use which.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
# Arguments for pytest: make test ARGS="tests/ops -k bilinear"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help check ruff mypy pyright test test-all test-exhaustive matrix bench fuzz mutation soak bindings drivers device docs

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: ruff mypy pyright ## lint, formatting and types: less than a minute

ruff:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

mypy:
	$(PYTHON) -m mypy

pyright:
	$(PYTHON) -m pyright --pythonpath $(PYTHON)

test: ## the tests that are not marked slow, without those of make check: three minutes on two cores
	$(PYTHON) -m pytest -m "not slow and not lint" $(ARGS)

test-all: ## all tests but those marked exhaustive: eleven minutes on two cores
	$(PYTHON) -m pytest $(ARGS)

test-exhaustive: ## every test: a quarter of an hour on two cores
	$(PYTHON) -m pytest -m "" $(ARGS)

matrix: ## the tests with the lowest and the newest dependencies, on each Python that is installed
	$(PYTHON) -m tests.matrix $(ARGS)

docs: ## the documentation site in site/, offline, its generated pages current and its links checked
	$(PYTHON) -m docs.tools.reference
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --quiet

bench: ## the benchmarks that need neither a GPU nor a data set
	$(PYTHON) -m tests.bench.bench_import
	$(PYTHON) -m tests.bench.bench_mask_projection
	$(PYTHON) -m tests.bench.bench_draw
	$(PYTHON) -m tests.bench.bench_export
	$(PYTHON) -m tests.bench.bench_pipeline

fuzz: ## everything that reads untrusted bytes, for an hour: python -m tests.fuzz --seconds N [TARGET ...] for less
	$(PYTHON) -m tests.fuzz --seconds 200 $(ARGS)

mutation: ## changes of the letterbox and the kernels that the tests must notice; needs g++, about an hour
	$(PYTHON) -m tests.mutation $(ARGS)

soak: ## half an hour of a camera that is unplugged: memory, files, threads, drift of the latency
	$(PYTHON) -m tests.bench.soak --minutes 30 $(ARGS)

bindings: ## Python plugins and export on NVIDIA's bindings, TensorRT 10.3 to 11.4 x NumPy 1.26 and 2; needs g++
	$(PYTHON) -m tests.bindings $(ARGS)

device: ## the device route in a fresh environment without PyTorch, with its times; downloads 0.3 GB
	$(PYTHON) -m tests.device_env $(ARGS)

drivers: ## CUDA drivers 12.2 to 13.0 x cuda-bindings x NVRTC, on a stand-in driver; needs gcc, fetches 0.8 GB once
	$(PYTHON) -m tests.cuda.driver_matrix $(ARGS)
