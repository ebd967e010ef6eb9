# Python with the package's dependencies for development: pip install -e '.[dev]'
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: bindings

# The Python plugins and the export on NVIDIA's bindings, TensorRT 10.3 to 11.4 with NumPy 1.26 and 2: fetches about
# 45 MB of wheels once, to $IMP_TRT_TEST_CACHE or ~/.cache/imp_trt/tests, and needs g++, but no GPU.
bindings:
	$(PYTHON) -m tests.bindings
