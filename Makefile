# make demo: set up .venv and run the main job. make test: set up .venv and run the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export HYDRA_FULL_ERROR ?= 0

.PHONY: demo test test-faults test-slow lint docs wheel-check clean

demo: $(VENV)/.installed
	$(BIN)/atlas-bench model=atlas task=babilong

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-faults: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 0 -m faults

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest tests/memory --hypothesis-profile=thorough

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

# The site of docs/, in build/site; a link that leads nowhere fails.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The wheel, installed into an environment of its own, must find its configs and run a job.
wheel-check: $(VENV)/.installed-test
	rm -rf build/wheel build/wheel-venv build/wheel-run
	$(BIN)/python -m build --wheel --outdir build/wheel .
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip install --quiet -c constraints.txt build/wheel/*.whl
	mkdir -p build/wheel-run
	cd build/wheel-run && ../wheel-venv/bin/atlas-bench training.tokens=2048 'task.lengths=[0k,1k]' task.samples=2 logger=none
	cd build/wheel-run && ../wheel-venv/bin/atlas-bench-report outputs
	! commit=$$(git rev-parse HEAD 2>/dev/null) || grep -q "\"git_commit\": \"$$commit" build/wheel-run/outputs/*/*/record.json

# A failed install leaves no stamp, so the next call tries again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist
