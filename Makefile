# make epoch: run the bundled epoch on a cluster of its own. make test: the tests. Both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# celery and the tests find the project's packages from here
export PYTHONPATH := $(CURDIR)

.PHONY: readme install epoch up doctor test test-slow test-gpu test-docker test-browser test-programs chaos fuzz screenshots lint format bench recording clean

install: $(INSTALLED)

# torch first and pinned: what follows then finds it satisfied and asks for no CUDA build
$(INSTALLED): $(wildcard requirements*.txt) constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' requirements-gpu.txt)
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-nanobody.txt -r requirements-dev.txt -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps boltz==2.2.1 abnumber==0.4.4
	touch $@

# RULES=2026 runs the bundled epoch of August 2026
epoch: install
	$(BIN)/python -m app epoch replay app/demo/recording$(if $(filter 2026,$(RULES)),-2026) --cluster embedded --out build/epoch$(if $(filter 2026,$(RULES)),-2026)/result.json --force

up: install
	$(BIN)/python -m app up

doctor: install
	$(BIN)/python -m app doctor

# a module's tests stay together: they share a cluster, a database, a loaded model; three processes on two cores, for many
# of them wait for a cluster most of the time
test: install
	$(BIN)/python -m pytest -n 3 --dist loadscope

test-slow: install
	$(BIN)/python -m pytest -m slow

test-gpu: install
	$(BIN)/python -m pytest -m gpu

test-docker: install
	$(BIN)/python -m pytest -m docker

# programs that are not Python packages of this environment: apt-get install hmmer; BOLTZGEN_COMMAND=…
test-programs: install
	$(BIN)/python -m pytest -m programs

# the pages in a real browser: apt-get install chromium
test-browser: install
	$(BIN)/python -m pytest -m browser tests/browser

# random faults on both databases; CHAOS_SECONDS=600 each unless said otherwise; CHAOS_EPOCHS=N must be hit
chaos: install
	$(BIN)/python -m pytest -m chaos -s tests/chaos

# each parser of untrusted input on 100,000 mutated inputs; FUZZ_SEED=N for others
fuzz: install
	FUZZ_INPUTS=$${FUZZ_INPUTS:-100000} timeout 3600 $(BIN)/python -m pytest -n 2 tests/fuzz

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: install
	$(BIN)/python -m tests.browser.screenshots

bench: install
	$(BIN)/python -m tests.benchmarks

recording: install
	rm -rf app/demo/recording
	$(BIN)/python -m app.demo.make_recording app/demo/recording

clean:
	rm -rf build data .mypy_cache .ruff_cache .pytest_cache .hypothesis

readme: install
	$(BIN)/python -m app.cli.readme
