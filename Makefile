# Two commands matter: `make demo` (look at faces from a real clip) and `make test`.
PYTHON ?= python3
VIDEO  ?= tests/fixtures/clip.mp4
OUT    ?= out/demo
BIN    := .venv/bin
STAMP  := .venv/installed

.PHONY: demo test drills lint readme snapshots env clean

demo: env  ## faces from a small clip, a page that shows them, and the editing service with its page in the browser
	$(BIN)/rigface extract $(VIDEO) $(OUT) --fps 15
	$(BIN)/rigface strip $(VIDEO) $(OUT)/edits.png
	$(BIN)/rigface inspect $(OUT)
	$(BIN)/rigface serve demo $(VIDEO) $(OUT)

test: env  ## all tests, without a GPU and without network
	$(BIN)/python -m pytest -n 2 --dist loadfile

drills: env  ## kill, cut, fill and break everything, and count the rows; some ten minutes, writes benchmarks/results/drills.json
	RIGFACE_DRILLS=benchmarks/results/drills.json $(BIN)/python -m pytest tests/drills -m "drill or not drill" -s

lint: env  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

env: $(STAMP)  ## the virtual environment at pinned versions

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:  ## forget outputs, keep the environment
	rm -rf out runs .pytest_cache .mypy_cache .ruff_cache

readme: env  ## the generated parts of the README
	$(BIN)/python scripts/readme.py

snapshots: env  ## what becomes of the Kubernetes overlays, after a change that was meant
	UPDATE_SNAPSHOTS=1 $(BIN)/python -m pytest tests/infra/test_snapshots.py
