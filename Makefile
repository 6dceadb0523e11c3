# Each target sets up all it needs: a virtual environment in .venv with the package and its development tools.
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python3.10,$(shell \
	$(python) -c 'import sys; (3, 10) <= sys.version_info < (3, 14) and print("$(python)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
NETWORK ?= datasets/networks/squeezenet1_1.u8s8.onnx
THREADS ?= 1

.PHONY: demo test lint format setup clean

demo: $(VENV)/.ready
	$(BIN)/selector explain $(NETWORK) --threads $(THREADS)
	$(BIN)/selector compile $(NETWORK) --threads $(THREADS) --verify
	$(BIN)/selector bench $(NETWORK) --threads $(THREADS) --policy int8 --policy int16 --policy learned --against tvm --against onnxruntime

test: lint
	$(BIN)/pytest -n auto --dist worksteal

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "error: Python 3.10 to 3.13 is needed" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
