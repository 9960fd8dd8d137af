# make quickstart   install everything, then train, evaluate and try a small model (about 10 minutes)
# TASK=panoptic     what the quickstart's model does: instance (default), panoptic or semantic
# make test         install everything, then run the tests
# WORKERS=N         processes that run them (default: one per core, at most 4)
# make fuzz         tests with damaged files, kills and sanitizers at length (FUZZ_CASES=10000 each)
# make lint         ruff, mypy, clang-format; checks of the workflow, issue forms and citation
# make docs         build this project's documentation: docs/_build/html/index.html
# make bench        speed: against the limit of this machine and other implementations
# BENCH=--quick     its options: see benchmarks/bench.py
# VENV=DIR          the virtual environment to use, made if missing (default: .venv)

VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.14.1 torchvision==0.29.1
INSTALL_TORCH ?= $(BIN)/pip install
export DETECTRON2_DATASETS ?= datasets
# this checkout, even if the environment was made for another one
export PYTHONPATH := $(CURDIR):$(CURDIR)/runtime$(if $(PYTHONPATH),:$(PYTHONPATH))
TASK ?= instance
FUZZ_CASES ?= 10000
OUTPUT ?= output/quickstart/$(TASK)
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count()))")

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.mask2former-installed
SHAPES := $(DETECTRON2_DATASETS)/synthetic_shapes
CSRC := $(shell git ls-files 'mask2former/modeling/ops/csrc')
CPP = $(shell git ls-files '*.cpp' '*.cu' '*.h' '*.cuh')

.PHONY: install quickstart test test-slow fuzz lint docs bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml runtime/pyproject.toml setup.py tools/install_detectron2.py $(CSRC)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --upgrade pip "setuptools<81" wheel
	$(INSTALL_TORCH) $(TORCH)
	$(BIN)/python tools/install_detectron2.py
	$(BIN)/pip install --no-build-isolation -e ./runtime -e ".[dev,docs]"
# evaluators that tests compare with; some ask for an old NumPy that they do not need
	$(BIN)/pip install --no-deps panopticapi-lite==0.2.0 cityscapesscripts==2.3.0 \
		pyquaternion==0.9.9 faster-coco-eval==1.8.0
	touch $@

quickstart: install
	$(BIN)/python -m mask2former.data.preparation.synthetic --output $(SHAPES)
	$(BIN)/python train_net.py --config-file configs/quickstart/$(TASK).yaml --resume OUTPUT_DIR $(OUTPUT)
	$(BIN)/python demo/demo.py --config-file $(OUTPUT)/config.yaml \
		--input "$(SHAPES)/val/*[05].*" --output $(OUTPUT)/pictures
	@echo "Model, logs and results: $(OUTPUT)"
	@echo "Pictures of its predictions: $(OUTPUT)/pictures"

# a thread for each process: threads that share a core wait for each other
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

# the fuzzers that coverage guides come with atheris, which has wheels for Linux on x86-64
fuzz: install
	$(BIN)/pip install --only-binary=:all: atheris || echo "no coverage-guided fuzzers: no atheris"
	FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest -s -m "slow or not slow" --timeout 7200 \
		tests/reliability

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(CPP),$(BIN)/clang-format --dry-run --Werror $(CPP))
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms \
		.github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --offline --quiet .github/workflows

# strict: a warning, such as a link or a reference that leads nowhere, is an error
docs: install
	$(BIN)/sphinx-build -W -n --keep-going -b html docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

# a machine that does nothing else: the tables say what other programs took. BENCH=--quick: minutes
bench: install
	$(BIN)/python benchmarks/bench.py $(BENCH)
	$(BIN)/python benchmarks/stages.py --precision fp32 bf16
	$(BIN)/python benchmarks/bench_ms_deform_attn.py
	$(BIN)/python benchmarks/bench_evaluation.py

clean:
	rm -rf build runtime/build docs/_build *.egg-info runtime/*.egg-info mask2former/_C*.so .mypy_cache .pytest_cache .ruff_cache
