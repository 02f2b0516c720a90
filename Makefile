# make demo   how long does a token take on this machine, weights off chip and on chip?
# make test   lint, types, all tests; on a second interpreter too where one is found
# make bench  the project's benchmarks, one JSON line each
#
# All three set up what is missing first: a virtual environment with the locked packages, the
# native products, the default model's weights. PYTHON=python3.12 chooses the interpreter.

# Byte code is kept: each of the many processes of a test run would compile JAX's again, 3 s.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
SECOND_VENV := .venv-second
MODEL := smollm2-135m-instruct
# A file's tests share what they compile; the longest files come first (tests/conftest.py).
WORKERS := -n auto --dist loadfile --no-loadscope-reorder

# The lock holds one set of packages below Python 3.12 and a newer one from there on; tests run on
# both where the machine has an interpreter for the other.
IS_NEW := $(shell $(PYTHON) -c 'import sys; print(int(sys.version_info >= (3, 12)))' 2>/dev/null)
SECOND ?= $(shell for p in $(foreach v,3.13 3.14 3.12 3.11, \
    python$(v) $(wildcard $(HOME)/.pyenv/versions/$(v).*/bin/python$(v))); do \
    "$$p" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11) or int(sys.version_info >= (3, 12)) == $(IS_NEW))' \
    2>/dev/null && echo "$$p" && break; done)

PRODUCTS := kernels/build.py $(wildcard kernels/*.cc kernels/*.h)

.DELETE_ON_ERROR:
.PHONY: demo test bench setup lint types tests second chips-table fidelity lock clean

demo: setup
	$(VENV)/bin/python -m experiments.run --config=experiments/configs/quickstart.py --workdir=demo

# Both set-ups at once, then what is quick beside the second interpreter's smaller set, so that both
# cores are used; the longest part comes last, and alone.
test:
	@$(MAKE) --no-print-directory -j2 setup $(SECOND_SETUP)
	@$(MAKE) --no-print-directory -j2 lint types second
	@$(MAKE) --no-print-directory tests
	@$(NO_SECOND)

bench: setup
	@$(VENV)/bin/python -m experiments.bench

# Fits all stacks to published cases, leaves cases out, and writes docs/fidelity.*: five minutes.
fidelity: setup
	$(VENV)/bin/python -m experiments.fit --leave_out=experiments/measured/folds.toml --out=docs/left_out.csv
	$(VENV)/bin/python -m experiments.validate --out=docs/fidelity.csv
	$(VENV)/bin/python -m experiments.fidelity_table

setup: $(VENV)/ready $(VENV)/products
	@$(VENV)/bin/python -m models.named $(MODEL)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup
	$(VENV)/bin/mypy

tests: setup
	$(VENV)/bin/python -m pytest $(WORKERS)

ifeq ($(SECOND),)
SECOND_SETUP :=
NO_SECOND := echo "tests: no second interpreter found (looked for 3.11 to 3.14); ran on one"
second: setup
	@$(NO_SECOND)
else
NO_SECOND := :
SECOND_SETUP := $(SECOND_VENV)/ready $(SECOND_VENV)/products
second: setup $(SECOND_SETUP)
	$(SECOND_VENV)/bin/python -m pytest $(WORKERS) -m newest
endif

# Compiling all of it to byte code would take half of the time: what is imported is compiled then.
%/locked: requirements.lock
	@$(if $(findstring second,$*),$(SECOND),$(PYTHON)) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "emu needs Python 3.11 or newer, and this is %d.%d: make PYTHON=/path/to/python" % v)'
	@echo "setting up $* (packages by the lock; a minute or two)"
	@$(if $(findstring second,$*),$(SECOND),$(PYTHON)) -m venv --clear $*
	@$*/bin/python -m pip install -qq --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements.lock
	@touch $@

%/ready: %/locked pyproject.toml
	@$*/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PRECIOUS: %/locked
$(SECOND_VENV)/ready: | $(VENV)/ready # both write emu.egg-info

# Touches the stamp itself, and only where there is a compiler: one installed later is found.
%/products: %/ready $(PRODUCTS)
	@$*/bin/python -m kernels.build $@

# The page of the catalogue: run it after a change in emu/catalogue/.
chips-table: setup
	$(VENV)/bin/python -m emu.catalogue > docs/chips.md

# One lock for every Python and platform; needs uv (pip install uv).
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --extra dev \
	  --no-annotate --no-header pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) $(SECOND_VENV) kernels/_build build *.egg-info .mypy_cache .ruff_cache .pytest_cache
