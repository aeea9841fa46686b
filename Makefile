# The commands of this project. Each one first makes what it needs: `.ci/environment.sh` says how.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: demo test develop rust-tools other-machine rust lint python bench regressions micro fuzz clean
.NOTPARALLEL:

export PATH := $(CURDIR)/.venv/bin:$(PATH):$(HOME)/.cargo/bin

FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
FUZZ_SECONDS := 60

demo: ## see it work
	@.ci/setup --group build --extra client --extra javascript --extra jupyter
	sandbox-runtime demo

test: rust lint regressions python ## everything that CI checks

develop: ## .venv with all that the other targets need
	@.ci/setup --all-groups --extra client

rust-tools:
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

# What no machine of ours runs is compiled at least; whoever cannot have its standard library is told.
OTHER_MACHINE := aarch64-unknown-linux-gnu

other-machine: rust-tools
	@if [ -d "$$(rustc --print target-libdir --target $(OTHER_MACHINE))" ] || timeout 120 rustup target add $(OTHER_MACHINE); then \
		cargo clippy --workspace --target $(OTHER_MACHINE) --locked -- -D warnings; \
	else echo 'NOT CHECKED: whether it compiles for $(OTHER_MACHINE), whose standard library is not to be had'; fi

rust: develop rust-tools other-machine
	cargo fmt --all --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --release -p rust_core --lib --features python --locked -- -D warnings
	cargo test --workspace --locked
	cargo test -p rust_core --bench pure --locked # each function once

lint: develop
	ruff format --check
	ruff check
	flake8 $(FLAKE8_OPTIONS)
	mypy
	stubtest sandbox_runtime._core
	lint-imports --no-logo
	.ci/make-sync-client --check

# ruff has most rules of flake8-async, but not those about nurseries, cancel scopes and swallowed
# cancellation. Left out: its optional rules (ASYNC9..), what ruff's ignores name, and the programs
# that run inside a sandbox, which are not trio's. A test is async if its fixtures are (ASYNC124).
FLAKE8_OPTIONS := --select ASYNC1,ASYNC2 --extend-ignore ASYNC109,ASYNC230,ASYNC232 \
	--per-file-ignores 'tests/*:ASYNC124 sandbox_runtime/bench/*:ASYNC221' \
	--exclude sandbox_runtime/interpreters/executors sandbox_runtime tests benches

# Its tests are made of the API's document and share one id: among workers only one of them would run.
UNNAMED := tests/server/test_schema.py

# As root, and then as a user who is nobody's: what is promised differs.
python: develop
	pytest --numprocesses 2 --dist loadfile --ignore $(UNNAMED)
	pytest $(UNNAMED)
	pytest benches/micro --benchmark-disable
	.ci/test-as-ordinary-user

# The original server needs root, node and npm; esbuild is a peer where NODE_PATH shows it.
ORIGINAL := $(if $(shell [ "$$(id -u)" = 0 ] && command -v npm), \
	--start-server 'original=benches/original-server {port}')

bench: ## everything against its peers, held to benches/targets.toml; writes docs/results.md
	@.ci/setup --all-groups --extra client
	mkdir -p target
	sandbox-runtime bench --native benches/native $(ORIGINAL) --json target/bench.json \
		--markdown docs/results.md --html target/bench.html --check benches/targets.toml || true
	python benches/headlines.py docs/results.md README.md
	sandbox-runtime bench --from target/bench.json --check benches/targets.toml >/dev/null

REGRESSIONS := fresh-jail session-builtin session-program python-pool python-empty-pool

regressions: develop ## ratios that CI holds, in a short run
	sandbox-runtime bench --quick --check benches/regressions.toml --attempts 4 \
		$(addprefix --scenario ,$(REGRESSIONS)) \
		--peer posix_spawn --peer 'bash -c true' --peer 'python -c'

micro: develop ## the parts that are functions of their arguments
	cargo bench -p rust_core --bench pure --locked
	pytest benches/micro --benchmark-only

fuzz: ## each target for FUZZ_SECONDS
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { \
		echo "make fuzz: cargo-fuzz is missing. To get it:"; \
		echo "    rustup toolchain install nightly && cargo install cargo-fuzz"; \
		exit 1; \
	} >&2
	for target in $(FUZZ_TARGETS); do \
		cargo +nightly fuzz run --fuzz-dir fuzz $$target -- -max_total_time=$(FUZZ_SECONDS); \
	done

clean:
	rm -rf .venv target fuzz/target dist .*_cache .hypothesis sandbox_runtime/_core*.so
