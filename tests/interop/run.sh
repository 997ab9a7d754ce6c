#!/usr/bin/env bash
# What clients that people use do against this server: matrix-nio, matrix-commander and matrix-js-sdk, as their registries have them now,
# without a work-around. Each says what it does, step by step, and ends with the first step that fails.
#
# "$1" is the server's binary. The clients are kept in the target directory; remove interop/ there for newer ones. The server runs on
# loopback, on a port and in a directory of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."

server=$(realpath "$1")
scripts=$PWD/tests/interop
home=${CARGO_TARGET_DIR:-$PWD/target}/interop
# Looks of a tenth of a second until the server listens.
looks_max=600

for needed in python3 node npm; do
    command -v "$needed" >/dev/null || { echo "interop: $needed is missing" >&2; exit 1; }
done
mkdir -p "$home"
if [ ! -e "$home/ready" ]; then
    python3 -m venv "$home/venv"
    "$home/venv/bin/pip" install --quiet matrix-nio matrix-commander
    # The newest matrix-js-sdk wants a newer Node than many systems have.
    npm install --silent --no-audit --no-fund --prefix "$home" node@22
    PATH=$home/node_modules/node/bin:$PATH npm install --silent --no-audit --no-fund --prefix "$home" matrix-js-sdk
    touch "$home/ready"
fi

work=$(mktemp -d)
pid=
stop() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap stop EXIT

# The limits of the default configuration hold: clients live with them.
cat >"$work/conduit.toml" <<TOML
[global]
server_name = "localhost"
database_path = "$work/database"
address = "127.0.0.1"
port = 0
allow_registration = true
yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse = true
TOML
: >"$work/log"
"$server" --config "$work/conduit.toml" 2>"$work/log" &
pid=$!
for ((look = 0; look < looks_max; look++)); do
    HAIMA_URL=$(sed -n 's/.*listening on \(http[^ ]*\).*/\1/p' "$work/log" | head -n 1)
    [ -z "$HAIMA_URL" ] || break
    kill -0 "$pid" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
export HAIMA_URL

failed=
client() {
    local name=$1
    shift
    echo "== $name"
    if (cd "$work" && "$@" 2>"$work/errors"); then
        echo "-- $name: works"
    else
        tail -n 20 "$work/errors"
        echo "-- $name: FAILED"
        failed="$failed $name"
    fi
}
export PATH=$home/node_modules/node/bin:$PATH
nio=$("$home/venv/bin/pip" show matrix-nio | sed -n 's/^Version: //p')
commander=$("$home/venv/bin/pip" show matrix-commander | sed -n 's/^Version: //p')
js=$(node -p 'require(process.argv[1]).version' "$home/node_modules/matrix-js-sdk/package.json")
client "matrix-nio $nio" "$home/venv/bin/python" "$scripts/nio_client.py"
client "matrix-commander $commander" bash "$scripts/commander.sh" "$home/venv/bin/matrix-commander"
# Modules are looked for beside the script.
cp "$scripts/js_client.mjs" "$home"
client "matrix-js-sdk $js" node "$home/js_client.mjs"
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
