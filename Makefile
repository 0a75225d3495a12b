# `make repro` and `make test` do all the set-up themselves, and are safe to repeat.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
# processes that the tests of different files run in
WORKERS ?= 2
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# a build without a terminal should not page, colour or phone home
export DVC_NO_ANALYTICS := 1

.PHONY: repro test test-slow lint format docs bench-calibrate bench-capture bench-check bench-engines bench-fleet bench-overhead bench-pipeline bench-quantize bench-routes clean mutations reproduce soak

repro: $(READY)  ## build every engine of params.yaml and print what they are worth
	qntz repro --keep-going
	dvc metrics show

test: $(READY)  ## the test suite, at most eight minutes on two cores
	python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(PYTEST)

test-slow: $(READY)  ## kills, mutations, whole pipelines
	python -m pytest -n $(WORKERS) --dist loadfile -m "slow and not soak" $(PYTEST)

reproduce: $(READY)  ## the default set in two clones that differ in all that must not matter: the same bytes
	python -m tests.pipeline.reproduce

mutations: $(READY)  ## each input of each stage changed, one at a time: what reran, what had to, as a table
	python -m tests.mutation.harness --repro 30

soak: $(READY)  ## a hundred kills of `dvc repro` at random moments and the same digests, and the longest tests
	python -m tests.pipeline.soak
	python -m pytest -n $(WORKERS) -m soak -o faulthandler_timeout=3600 $(PYTEST)

lint: $(READY)
	ruff check .
	ruff format --check .
	lint-imports

format: $(READY)
	ruff check --fix .
	ruff format .

docs: $(READY)  ## docs/rules.md and docs/plugins.md from the code
	python -m docs.generate

bench-check: $(READY)  ## the rule check beside one eager forward and beside draft_export
	python -m benchmarks.check

bench-calibrate: $(READY)  ## calibration of resnet50 beside ONNX Runtime's and ModelOpt's, over plain inference
	python -m benchmarks.calibrate

bench-quantize: $(READY)  ## accuracy of int8 on small trained nets, beside ONNX Runtime's and ModelOpt's
	python -m benchmarks.quantize

bench-capture: $(READY)  ## capture by auto and export beside a bare torch.onnx.export, on 14 architectures
	python -m benchmarks.capture

bench-routes: $(READY)  ## capture by auto beside torch's own ways to ONNX, over hazardous and good models
	python -m benchmarks.routes

bench-engines: $(READY)  ## engines beside those of a bare builder script, with the same options: seconds and bytes
	python -m benchmarks.engines

bench-fleet: $(READY)  ## 5, 20 and 100 models: what DVC costs beside the stages, one after the other and side by side
	python -m benchmarks.fleet

bench-overhead: $(READY)  ## a `dvc repro` in which nothing changed, for 1, 10, 30 and 100 models
	python -m benchmarks.overhead

bench-pipeline: $(READY)  ## a cold `dvc repro` of one engine beside one plain script that does the same
	python -m benchmarks.pipeline

$(READY): pyproject.toml requirements.lock
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[dev,hf,ray]"
	touch $@

clean:  ## everything that was built, but not DVC's cache
	rm -rf build
