# Every verb does its own set-up into .venv.
.PHONY: build run test thorough check bench bench-path bench-fleet bench-load slow engines image sanitize clean
.DEFAULT_GOAL := build

PYTEST = .venv/bin/python -m pytest

build:  ## .venv with everything the other verbs need, .venv/bin/penstock
	@tools/prepare

run: build  ## gateway and four simulated engines on this machine
	@echo "penstock: starting the demo" >&2
	@exec .venv/bin/penstock demo

test: build  ## the tests that need nothing beyond this machine, in a few minutes
	@tools/run_tests

thorough: build  ## those that take longer: faults, all examples of the properties (CI runs them too)
	@tools/run_tests thorough

check: build  ## lint, types, layers, stubs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	PYTHONPATH=. .venv/bin/python tools/document_settings.py --check
	$(PYTEST) -q tests/unit/test_architecture.py tests/typing

bench: build  ## the compiled hot path, beside its plain-Python twins
	$(PYTEST) bench/micro --benchmark-columns=median,iqr,rounds --benchmark-sort=name

bench-path: build  ## instructions of a request inside one process, as callgrind counts them: no noise of the machine
	.venv/bin/python -m bench.path

TRACE ?= $(wildcard ../shared/traces/mooncake-conversation.jsonl)

bench-fleet: build  ## policies of schedulers on a trace of requests (TRACE=FILE), in virtual time
	@test -n "$(TRACE)" || { echo "error: say which trace: make bench-fleet TRACE=FILE" >&2; exit 1; }
	.venv/bin/python -m bench.fleet --trace $(TRACE) --engines 16 --load 0.5 0.8 0.95 1.1

bench-load: build  ## the gateway beside nginx, Envoy and three routers, on two cores: about 20 minutes; results go to bench/results
	@mkdir -p bench/results
	.venv/bin/python -m bench.load --markdown bench/results/load.md --json bench/results/load.json --plot bench/results/load.png

engines: build  ## against real vLLM engines (../shared/engines)
	$(PYTEST) -m engines tests/engines

slow: build  ## what is too long for CI, about three hours: 10,000 kills, a soak, all policies on a trace (TRACE=FILE); dated results go to bench/results
	$(PYTEST) -s -m slow tests
	@test -n "$(TRACE)" || { echo "SKIPPED: policies on a trace: say which (TRACE=FILE)" >&2; exit 0; }
	$(if $(TRACE),.venv/bin/python -m bench.fleet.matrix --trace $(TRACE))

image:  ## the container image `penstock`, with docker, podman or buildah (BASE=IMAGE: another Debian with Python 3.11 or newer)
	@tools/image $(BASE)

sanitize: build  ## the compiled modules' tests under the address and undefined-behaviour sanitizers
	tools/sanitize

clean:
	rm -rf .venv build dist *.egg-info _fastpath/*.so
	find gateway -name '*.so' -delete
