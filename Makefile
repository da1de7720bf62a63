# `make help` lists the targets; `make demo` and `make test` are the two that matter.
PYTHON ?= python3
VIDEO  ?= tests/fixtures/clip.mp4
OUT    ?= out/demo
BIN    := .venv/bin
STAMP  := .venv/installed

.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE  # hundreds of processes of the tests import the same files
.PHONY: help demo card test test-fast lint format docs drills env clean

help:  ## print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: env  ## extract the faces of a clip, show them, and open the editor in the browser; VIDEO=my.mp4 for another clip
	$(BIN)/rigface extract $(VIDEO) $(OUT) --fps 15
	$(BIN)/rigface strip $(VIDEO) $(OUT)/edits.png
	$(BIN)/rigface inspect $(OUT)
	$(BIN)/rigface serve demo $(VIDEO) $(OUT)

test: env  ## run all tests, without a GPU and without network; three processes, as some wait for others
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-fast: env  ## run the tests that take half a second at most: no cluster, server, browser or training
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not drill"

lint: env  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env  ## format the code and fix what can be fixed by itself
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: env  ## rewrite the generated tables of docs/ and the generated files of infra/observability
	$(BIN)/python scripts/docs.py
	$(BIN)/python scripts/observability.py

card: env  ## evaluate the editors on people none was trained on, FACES=folder of `extract`; writes docs/evaluation.md
	$(BIN)/rigface evaluate $(FACES) $(OUT)/card --all-people --limit 96 --sweeps 4 --clips 4 --clip-frames 12
	$(BIN)/python scripts/evaluation_card.py $(OUT)/card

drills: env  ## break every part of running jobs and count rows; half an hour, writes benchmarks/results/drills.json
	RIGFACE_DRILLS=benchmarks/results/drills.json $(BIN)/python -m pytest tests/drills -m "drill or not drill" -s

env: $(STAMP)  ## create the virtual environment at pinned versions

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:  ## delete outputs and caches, keep the environment
	rm -rf out runs build dist .pytest_cache .mypy_cache .ruff_cache
