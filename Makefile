# make bench: environment, installation, the models that take seconds on the embedded data, the report.
# make test: environment, then everything that CI runs. make perf: the benchmarks. make soak: faults.
# make docs: these pages and the API reference as a site, in build/docs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROFILE ?= quick
STORE ?= results
MODELS ?= popularity item_knn user_knn ease chol mrf slim gf_cf turbo_cf wrmf bpr
export PYTHONSAFEPATH = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: bench test perf soak docs system-packages clean
.DEFAULT_GOAL := bench

bench: $(VENV)/.installed
	$(BIN)/recscale run-all $(addprefix --model ,$(MODELS)) --profile $(PROFILE) --protocol fold-in --protocol hold-one-out --store $(STORE)
	@echo "the report: $(STORE)/report/report.html and $(STORE)/report/report.md"

test: $(VENV)/.tox-installed
	$(BIN)/tox

perf: $(VENV)/.tox-installed
	$(BIN)/tox -e perf

soak: $(VENV)/.tox-installed
	$(BIN)/tox -e soak

docs: $(VENV)/.tox-installed
	$(BIN)/tox -e docs
	@echo "the pages: build/docs/index.html"

# CHOLMOD is optional: where its two Debian packages can neither be found nor installed, the rest goes on without it.
system-packages:
	@sh .ci/system-packages

$(VENV)/.tox-installed: | system-packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "tox>=4.23"
	touch $@

$(VENV)/.installed: pyproject.toml | system-packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable ".[report]"
	$(BIN)/python -m pip install --quiet --editable ".[cholmod]" || \
	  echo "recscale goes on without CHOLMOD: its jobs will be recorded as skipped"
	touch $@

clean:
	rm -rf $(VENV) .tox build dist *.egg-info
