#!/usr/bin/env bash
# Runs the tests of buckets against Garage, a server of S3: on loopback, in a temporary directory, stopped at the end.
# Builds it from crates.io once, into the target directory; that takes longer than all else here.
set -euo pipefail
cd "$(dirname "$0")/.."

version=2.5.0
home="${CARGO_TARGET_DIR:-$PWD/target}/garage"
garage="$home/bin/garage"
# Ports are tried from here; a port that is taken makes Garage end at once.
port_min=20000
attempts_max=20
# Looks of a tenth of a second until Garage answers.
looks_max=300

if ! "$garage" --version 2>/dev/null | grep -qF "$version"; then
    echo "Building Garage $version once; this takes some fifteen minutes on two cores." >&2
    # It has a lock file and C libraries of its own; ours would be in the way.
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC cargo install garage --version "$version" --locked \
        --no-default-features --features bundled-libs,sqlite --root "$home" --target-dir "$home/build"
    rm -rf "$home/build"
fi

work="$(mktemp -d)"
pid=
stop() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        pid=
    fi
}
trap 'stop; rm -rf "$work"' EXIT

random_hex() {
    od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'
}

export GARAGE_DEFAULT_BUCKET=haima-test
GARAGE_DEFAULT_ACCESS_KEY="GK$(random_hex 12)"
GARAGE_DEFAULT_SECRET_KEY="$(random_hex 32)"
export GARAGE_DEFAULT_ACCESS_KEY GARAGE_DEFAULT_SECRET_KEY

# Starts Garage on two ports from $1. Fails if it ends, or doesn't listen in time.
start() {
    rm -rf "${work:?}"/*
    cat >"$work/garage.toml" <<TOML
metadata_dir = "$work/meta"
data_dir = "$work/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$(($1 + 1))"
rpc_public_addr = "127.0.0.1:$(($1 + 1))"
rpc_secret = "$(random_hex 32)"

[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:$1"
TOML
    "$garage" -c "$work/garage.toml" server --single-node --default-bucket >"$work/log" 2>&1 &
    pid=$!
    for _ in $(seq "$looks_max"); do
        kill -0 "$pid" 2>/dev/null || return 1
        if grep -q "S3 API server listening" "$work/log"; then
            return 0
        fi
        sleep 0.1
    done
    return 1
}

port=
for _ in $(seq "$attempts_max"); do
    port=$((port_min + RANDOM % 10000))
    if start "$port"; then
        break
    fi
    stop
    port=
done
if [ -z "$port" ]; then
    echo "Garage did not start:" >&2
    cat "$work/log" >&2
    exit 1
fi

export HAIMA_TEST_S3_ENDPOINT="http://127.0.0.1:$port"
export HAIMA_TEST_S3_BUCKET="$GARAGE_DEFAULT_BUCKET"
export HAIMA_TEST_S3_REGION=garage
export HAIMA_TEST_S3_ACCESS_KEY="$GARAGE_DEFAULT_ACCESS_KEY"
export HAIMA_TEST_S3_SECRET_KEY="$GARAGE_DEFAULT_SECRET_KEY"
cargo test -p media --test s3
cargo test --test haima s3::
