# What a developer does with ovafs. Every target installs what it lacks first: Debian packages (as root or with
# sudo) and a virtual environment. When nothing is missing that takes a moment and needs no network.
#
#   VENV=folder     the virtual environment                (default .venv)
#   PYTHON=program  the Python to make it with             (default: a Python >= 3.11 on PATH, or Debian's)
#   MINUTES=number  how long to fuzz
#   WORKERS=number  how many processes run tests            (default 2)
#   ARGS=words      passed on to pytest or the benchmark   (make test ARGS="-k qcow2 -x")

VENV ?= .venv
ARGS ?=
MINUTES ?= 20
WORKERS ?= 2
BIN := $(VENV)/bin
SETUP := VENV="$(VENV)" PYTHON="$(PYTHON)" .ci/setup

.PHONY: help demo demo-libvirt test test-libvirt lint bench fuzz clean

help: ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 16

demo: ## mount a real machine, copy it out, and prove that the copy is its disk
	@$(SETUP) demo
	@PATH="$(abspath $(BIN)):$$PATH" tests/demo.sh

demo-libvirt: ## copy a machine that runs, under a libvirt of its own, and start the copy
	@$(SETUP) libvirt
	@$(BIN)/python -m tests.libvirt.demo

test: ## run the tests, layer by layer (those marked slow: ARGS="-m slow")
	@$(SETUP) test
	@$(BIN)/pytest -m "not slow and not libvirt" -n $(WORKERS) --dist loadfile $(ARGS)

test-libvirt: ## run the tests that need a hypervisor: libvirtd and QEMU, of their own
	@$(SETUP) libvirt
	@$(BIN)/pytest -m libvirt $(ARGS)

lint: ## check style, types and the layers
	@$(SETUP) lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: ## measure against cp, qemu-img and other FUSE file systems on this machine
	@$(SETUP) bench
	@$(BIN)/python -m tests.bench $(ARGS)

fuzz: ## damage packages and import them, for MINUTES=20
	@$(SETUP) test
	@$(BIN)/python -m tests.fuzz $(MINUTES) $(ARGS)

clean: ## remove what the other targets made, the virtual environment too
	rm -rf .venv build .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info
	find ovafs tests -name __pycache__ -type d -exec rm -rf {} +
