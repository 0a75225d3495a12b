# `make repro` and `make test` do all the set-up themselves, and are safe to repeat.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
# processes that the tests of different files run in
WORKERS ?= 2
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# a build without a terminal should not page, colour or phone home
export DVC_NO_ANALYTICS := 1

.PHONY: repro test test-slow lint format docs bench-calibrate bench-capture bench-check bench-engines bench-pipeline bench-quantize bench-routes clean

repro: $(READY)  ## build every engine of params.yaml and print what they are worth
	python -m stages.mend_lock
	dvc repro --keep-going
	dvc metrics show

test: $(READY)  ## the test suite, at most eight minutes on two cores
	python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(PYTEST)

test-slow: $(READY)  ## kills, mutations, whole pipelines
	python -m pytest -n $(WORKERS) --dist loadfile -m slow $(PYTEST)

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

bench-pipeline: $(READY)  ## a cold `dvc repro` of one engine beside one plain script that does the same
	python -m benchmarks.pipeline

$(READY): pyproject.toml requirements.lock
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[dev,hf]"
	touch $@

clean:  ## everything that was built, but not DVC's cache
	rm -rf build
