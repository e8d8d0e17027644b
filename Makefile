# `make` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

export PATH := $(PATH):/usr/sbin:/sbin:$(HOME)/.cargo/bin

# The cargo profile of `build` and `image`. Tests and the quick start use one profile for everything, `dev`, because
# building everything twice would take longer than it saves.
PROFILE ?= release

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Cargo puts the profile `dev` into a folder of another name.
DIR = $(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
IMAGE := $(TARGET)/calico-node.tar

.PHONY: help setup build image share deb quickstart test fuzz lint advisories bench clean-lab

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing from Debian's packages (root)
	@scripts/setup

build: setup ## build all programs into target/release
	$(if $(filter release,$(PROFILE)),CALICO_COMMIT=$$(git rev-parse --short HEAD 2>/dev/null || true)) \
		cargo build --locked --workspace --bins --profile $(PROFILE)

image: build ## build the image calico/node as target/calico-node.tar, for `docker load`
	@$(DIR)/calico-lab image --out $(IMAGE)

share: build ## write the manual pages and the completion scripts into target/share, for /usr/local/share
	@$(DIR)/calicoctl man $(TARGET)/share/man/man1
	@mkdir -p $(TARGET)/share/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
	@$(DIR)/calicoctl completion bash >$(TARGET)/share/bash-completion/completions/calicoctl
	@$(DIR)/calicoctl completion zsh >$(TARGET)/share/zsh/site-functions/_calicoctl
	@$(DIR)/calicoctl completion fish >$(TARGET)/share/fish/vendor_completions.d/calicoctl.fish

deb: build ## build the Debian package target/calico_<version>_<architecture>.deb
	@scripts/deb $(DIR) $(TARGET)

quickstart: ## play one host without etcd on this machine, then the walk-through on two hosts, which stay up (root)
	@$(MAKE) image PROFILE=dev
	@$(TARGET)/debug/calico-lab play

test: ## run all tests, end-to-end ones included (root)
	@scripts/run-tests

fuzz: setup ## compare real packets in random clusters with the oracle, until stopped or for FUZZ_SECONDS; FUZZ_SEED repeats (root)
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),0) cargo test --locked -p calico-packets --test fuzz -- --nocapture

lint: setup ## check format, lints and, with cargo-deny installed, licenses and sources
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check bans licenses sources; \
	else echo 'lint: cargo-deny is not installed (cargo install --locked cargo-deny): licenses were not checked'; fi

bench: image ## measure, print a table and write target/bench.json; ONLY=felix runs a part (root)
	@$(DIR)/calico-bench --output $(TARGET)/bench.json $(if $(ONLY),--only $(ONLY))

advisories: ## look for known faults in what we depend on (cargo-deny, fetches its list)
	cargo deny --locked check advisories

clean-lab: ## remove every lab with all that it made (root)
	@for lab in $(TARGET)/{debug,release}/calico-lab; do \
		if [ -x $$lab ]; then exec $$lab down --all; fi; \
	done; \
	cargo run --quiet --locked -p calico-lab -- down --all
