# The few commands that a person or a CI machine needs; each works on a fresh clone. `make` alone lists them.

CARGO ?= cargo
PYTHON ?= python3
VOLVELLE := target/release/volvelle
DEMO := pipelines/countdown.yaml

.DEFAULT_GOAL := help
.PHONY: help setup build test lint test-python demo demo-quick bench bench-full bench-store bench-serve bench-lm bench-search bench-verify demo-seeds clean

help:  ## Lists these commands
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## Fetches libtorch into .libtorch (once; see scripts/setup-libtorch.sh)
	@PYTHON=$(PYTHON) scripts/setup-libtorch.sh

build: setup  ## Builds both programs, optimized
	$(CARGO) build --release

lint: setup  ## Formatting and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --workspace --all-targets -- -D warnings

test: lint setup-s3  ## Everything that CI checks
	$(CARGO) test --quiet --workspace
	@$(MAKE) --no-print-directory test-python

# Without it the tests against a real S3 server skip, and say so.
.PHONY: setup-s3
setup-s3:
	@PYTHON=$(PYTHON) scripts/setup-s3.sh >/dev/null || echo "no S3 server could be had; its tests skip"

# Each folder of tests is its own run: the plugins are separate programs and share no package. After the build, because some
# of them call what was built.
test-python:  ## The tests of the Python plugins, scripts and the benchmark
	@set -e; for file in $$(find plugins scripts bench -name 'test_*.py' | sort); do \
	  echo "$(PYTHON) -m unittest $$file"; \
	  (cd "$$(dirname "$$file")" && PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m unittest --quiet "$$(basename "$$file" .py)"); \
	done

demo: build  ## ASTRO on Countdown, from problems to the comparison page (a build, and 5 to 10 minutes on 2 cores)
	$(VOLVELLE) run $(DEMO)
	@$(MAKE) --no-print-directory show-demo PROFILE=

demo-seeds: build  ## The demo with three seeds: what is luck and what is not (three times as long)
	$(VOLVELLE) run $(DEMO) --profile seeds
	@$(MAKE) --no-print-directory show-demo PROFILE='--profile seeds'

demo-quick: build  ## The same with small sizes (a minute or two): shows the machinery, not the method
	$(VOLVELLE) run $(DEMO) --profile quick
	@$(MAKE) --no-print-directory show-demo PROFILE='--profile quick'

.PHONY: show-demo
show-demo:
	@echo
	@$(VOLVELLE) show $(DEMO) report.table $(PROFILE)
	@echo
	@echo "The page with curves, trees and solutions: $(VOLVELLE) show $(DEMO) report.page $(PROFILE) --path"

# The engine alone: a benchmark needs no libtorch.
bench:  ## Times the engine on up to 1,000 nodes beside ninja (a few minutes; bench/README.md)
	$(CARGO) build --release --package volvelle
	PYTHON=$(PYTHON) bench/engine/setup.sh target/bench/tools ninja
	$(PYTHON) bench/engine/run.py --volvelle $(VOLVELLE)

bench-full:  ## The same on up to 100,000 nodes, beside DVC and Snakemake too (an hour or more)
	$(CARGO) build --release --package volvelle
	PYTHON=$(PYTHON) bench/engine/setup.sh target/bench/tools
	$(PYTHON) bench/engine/run.py --volvelle $(VOLVELLE) --full --report bench/results.md

bench-store:  ## Times the store on a folder of 2 GiB beside cp, b3sum and DVC (some minutes; needs 10 GB of disk)
	$(CARGO) build --release --package volvelle
	$(CARGO) install --quiet --locked --root target/bench/tools/b3sum b3sum
	PYTHON=$(PYTHON) bench/engine/setup.sh target/bench/tools dvc
	$(PYTHON) bench/store/store.py --report bench/results.md

bench-serve:  ## Puts `volvelle serve` under load, beside nginx (a few minutes; installs wrk and nginx where it may)
	$(CARGO) build --release --package volvelle
	bench/serve/setup.sh
	$(PYTHON) bench/serve/run.py --volvelle $(VOLVELLE)

bench-lm: setup  ## Times generation and training beside transformers and TRL (about 10 minutes; downloads 3 GB once)
	$(CARGO) build --release --package volvelle-torch
	PYTHON=$(PYTHON) bench/lm/setup.sh
	$(PYTHON) bench/lm/lm.py --report bench/lm/results.md

bench-search: setup  ## Times search beside a plain loop over transformers' generate (some minutes; needs bench-lm's downloads)
	$(CARGO) build --release --package volvelle-torch
	PYTHON=$(PYTHON) bench/lm/setup.sh
	$(PYTHON) bench/search/search.py --report bench/search/results.md

bench-verify: setup  ## Times the verifier on plain answers, beside math-verify where it is installed (a minute)
	$(CARGO) build --release --package volvelle-torch
	$(PYTHON) bench/verify/verify.py --program target/release/volvelle-torch

clean:  ## Removes what was built; keeps cache/, models/ and .libtorch
	$(CARGO) clean
