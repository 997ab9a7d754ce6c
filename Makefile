# Everything that README and CI call. `make run` and `make test` install what the build needs where it is missing.

CONFIG ?= conduit.toml
export CARGO_TARGET_DIR ?= $(CURDIR)/target

# RocksDB is a large C++ library, so one build of it serves every profile. A mark with the version that Cargo.lock
# names stands beside it, so that an upgrade builds anew.
ROCKSDB_VERSION := $(shell sed -n '/^name = "librocksdb-sys"/{n;s/^version = "\(.*\)"/\1/p}' Cargo.lock)
export ROCKSDB_LIB_DIR := $(CARGO_TARGET_DIR)/rocksdb
export ROCKSDB_STATIC := 1

.PHONY: run test test-s3 conformance matrix-spec fresh interop-clients check audit bench deps rocksdb config docs

run: rocksdb
	cargo build --release --bin haima
	"$(CARGO_TARGET_DIR)/release/haima" --config "$(CONFIG)"

test: rocksdb
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo test --workspace --doc --quiet && cargo nextest run --workspace --no-fail-fast; \
	else \
		cargo test --workspace --no-fail-fast; \
	fi

# The tests of buckets once more, against Garage, which it builds the first time.
test-s3: rocksdb
	tests/s3-garage.sh

# The tests of the whole server, with every answer that they get checked against the documents of the specification, and then
# what of these documents they exercise.
CONFORMANCE := $(CARGO_TARGET_DIR)/conformance
conformance: matrix-spec rocksdb
	rm -rf "$(CONFORMANCE)" && mkdir -p "$(CONFORMANCE)"
	export MATRIX_SPEC="$(abspath $(MATRIX_SPEC))" MATRIX_SPEC_COVERAGE="$(CONFORMANCE)"; \
		cargo test --test haima && cargo test --quiet --test haima -- --nocapture coverage::

matrix-spec:
	@test -d "$(MATRIX_SPEC)/data/api/client-server" || { \
		echo "Say where the specification is: make conformance MATRIX_SPEC=DIRECTORY, a clone of https://github.com/matrix-org/matrix-spec" >&2; \
		exit 1; \
	}

# README's commands on a bare Debian 12, as root: before a release, and after changes of the build. FRESH has options; see the script.
fresh:
	tests/fresh.sh $(FRESH)

# What clients that people use do against this server, by their own libraries from their registries.
interop-clients: rocksdb
	cargo build --release --bin haima
	tests/interop/run.sh "$(CARGO_TARGET_DIR)/release/haima"

check: rocksdb
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings --allow rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --quiet

# Dependencies that nothing uses, licences, sources, and crates that are there twice. Needs what `cargo install cargo-machete cargo-deny` installs.
audit:
	cargo machete
	cargo deny check licenses bans sources

bench: rocksdb
	cargo bench --workspace

# Writes the commented configuration anew from the typed one.
config: rocksdb
	cargo run --quiet --bin haima -- generate-config > conduit.toml.new && mv conduit.toml.new conduit.toml

docs:
	mdbook build docs

rocksdb: $(ROCKSDB_LIB_DIR)/built-$(ROCKSDB_VERSION)

$(ROCKSDB_LIB_DIR)/built-$(ROCKSDB_VERSION): | deps
	@echo "Building RocksDB once; this takes some fifteen minutes on two cores."
	env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC cargo build --release -p librocksdb-sys \
		--target-dir "$(CARGO_TARGET_DIR)/rocksdb-build"
	mkdir -p "$(ROCKSDB_LIB_DIR)"
	cp "$$(ls -t "$(CARGO_TARGET_DIR)"/rocksdb-build/release/build/librocksdb-sys-*/out/librocksdb.a | head -n 1)" \
		"$(ROCKSDB_LIB_DIR)/librocksdb.a"
	touch "$@"

# clang's library, and the headers with it, are for the generated bindings; g++ is for RocksDB itself.
deps:
	@command -v cargo >/dev/null || { echo "Rust is missing: install it with rustup, then run make again." >&2; exit 1; }
	@if command -v c++ >/dev/null && .ci/has-libclang; then :; \
	elif command -v apt-get >/dev/null; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update && $$sudo apt-get install --yes --no-install-recommends g++ clang libclang-dev; \
	else \
		echo "The build needs a C++ compiler and libclang. Install them with your package manager," >&2; \
		echo "for example: dnf install gcc-c++ clang-devel | pacman -S gcc clang | brew install llvm | nix develop" >&2; \
		exit 1; \
	fi
