# vcbmount. `make help` lists the targets; each installs what it lacks (as root), or says what to install.

PREFIX ?= /usr/local
CARGO ?= cargo
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
BIN := $(TARGET_DIR)/release/vcbmount

.PHONY: help setup setup-demo build demo test torture fuzz lint bench man completions install windows lint-windows test-windows dist-windows

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## installs everything that building and testing need
	scripts/setup.sh test

setup-demo:
	scripts/setup.sh demo

build: ## builds the release binary
	scripts/setup.sh build
	$(CARGO) build --release -p vcbmount

demo: setup-demo ## makes a sample VM, mounts it both ways, compares every hash, unmounts
	$(CARGO) build --release -p vcbmount
	scripts/demo.sh $(BIN)

test: setup ## every test of the quick and full tiers
	$(CARGO) test --workspace

torture: setup ## the long tier: full sweeps and mutations
	VCB_TORTURE=1 $(CARGO) test --workspace --release

fuzz: ## each fuzz target for SECONDS (60); needs a nightly toolchain and cargo-fuzz
	@command -v cargo-fuzz >/dev/null || { echo "fuzz: run: cargo install cargo-fuzz" >&2; exit 1; }
	@set -e; for target in $$(cd fuzz && cargo fuzz list); do \
	    (cd fuzz && cargo +nightly fuzz run $$target -- -max_total_time=$(or $(SECONDS),60) -rss_limit_mb=512); done

lint: ## formatting, clippy, and the licences of what we depend on
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --log-level error check licenses bans sources; \
	 else echo "lint: cargo-deny is not installed; licences were not checked"; fi

bench: setup ## speed, alone and beside peers
	$(CARGO) bench -p vcb-benches
	$(CARGO) run --release -p vcb-benches --bin peers -- --write
	$(CARGO) build --release -p vcbmount
	benches/ntfs.sh $(BIN)

windows: ## vcbmount.exe, built here for Windows
	scripts/setup.sh build
	scripts/windows/cross.sh setup
	scripts/windows/cross.sh cargo build --release -p vcbmount
	@echo $(or $(VCB_WINDOWS_TARGET_DIR),target/windows)/x86_64-pc-windows-gnu/release/vcbmount.exe

lint-windows: ## clippy for Windows
	scripts/setup.sh build
	scripts/windows/cross.sh setup
	scripts/windows/test.sh lint

test-windows: ## everything of Windows but the driver, under wine
	scripts/setup.sh demo
	scripts/windows/cross.sh setup
	scripts/windows/test.sh

dist-windows: windows ## the zip for Windows, in dist/
	scripts/windows/dist.sh

man: build ## the manual page, in dist/
	@mkdir -p dist && $(BIN) man > dist/vcbmount.1 && echo dist/vcbmount.1

completions: build ## completion scripts, in dist/
	@mkdir -p dist
	@$(BIN) completions bash > dist/vcbmount.bash
	@$(BIN) completions zsh > dist/_vcbmount
	@$(BIN) completions fish > dist/vcbmount.fish
	@$(BIN) completions powershell > dist/vcbmount.ps1
	@echo dist/vcbmount.bash dist/_vcbmount dist/vcbmount.fish dist/vcbmount.ps1

install: man completions ## installs below PREFIX (/usr/local)
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/vcbmount
	install -D -m 644 dist/vcbmount.1 $(DESTDIR)$(PREFIX)/share/man/man1/vcbmount.1
	install -D -m 644 dist/vcbmount.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/vcbmount
	install -D -m 644 dist/_vcbmount $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vcbmount
	install -D -m 644 dist/vcbmount.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vcbmount.fish
