#!/usr/bin/env bash
# README's two commands on a bare Debian 12 that has Rust, gcc, make and git and nothing else: `make run` must end in a server that
# answers, on which an account is made and a message sent; then `make test` must pass. Says at the end how long each took.
#
# The system is made with debootstrap in a temporary directory, which needs root. How packages are reached it takes over from this
# machine: the mirror and proxies of apt, cargo's configuration, the certificates that are trusted.
#
#   --only-deps      end when what the build needs is installed and downloaded
#   --crates DIR     a registry directory of cargo's, such as ~/.cargo/registry, whose downloads are used
#   --rocksdb DIR    a directory with librocksdb.a and its mark, such as target/rocksdb, for a trial: the times don't count then
#   --directory DIR  make the system there (it must not exist), and keep it
#   FRESH_PORT       the port of the server on loopback, 8008 by default
set -euo pipefail
cd "$(dirname "$0")/.."

suite=bookworm
port=${FRESH_PORT:-8008}
only_deps= crates= rocksdb= directory=
while [ $# -gt 0 ]; do
    case $1 in
    --only-deps) only_deps=yes && shift ;;
    --crates) crates=$(realpath "$2") && shift 2 ;;
    --rocksdb) rocksdb=$(realpath "$2") && shift 2 ;;
    --directory) directory=$2 && shift 2 ;;
    *) echo "unknown option $1" >&2 && exit 2 ;;
    esac
done

fail() {
    echo "fresh: $*" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root"
for needed in debootstrap cargo git curl; do
    command -v "$needed" >/dev/null || fail "$needed is missing"
done

keep=
if [ -n "$directory" ]; then
    mkdir "$directory"
    keep=yes
else
    directory=$(mktemp -d)
fi
system=$directory/system
mounted=()
server=
clean() {
    set +e
    if [ -n "$server" ]; then
        kill -TERM -- "-$server" 2>/dev/null
        wait "$server" 2>/dev/null
    fi
    for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do
        umount --lazy "${mounted[i]}"
    done
    # Nothing is removed while something of this machine is still mounted in it.
    if [ -z "$keep" ] && ! grep -qF " $system/" /proc/mounts; then
        rm -rf "$directory"
    fi
}
trap clean EXIT
trap 'exit 130' INT TERM

times=()
# Runs a command and remembers how long it took.
timed() {
    local name=$1 before=$SECONDS
    shift
    "$@"
    times+=("$name: $((SECONDS - before)) s")
}

# A setting of apt's, such as a proxy.
apt_setting() {
    apt-config shell value "$1" 2>/dev/null | sed -n "s/^value='\(.*\)'$/\1/p"
}

make_system() {
    local mirror= proxy
    if command -v apt-get >/dev/null; then
        # shellcheck disable=SC2016 # apt fills these in
        mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
            sed -n "s/^$suite //p" | head -n 1)
        proxy=$(apt_setting Acquire::http::Proxy)
        [ -z "$proxy" ] || export http_proxy=${http_proxy:-$proxy}
    fi
    debootstrap --variant=minbase --include=ca-certificates,gcc,git,make "$suite" "$system" ${mirror:+"$mirror"} >"$directory/debootstrap.log" ||
        { tail "$directory/debootstrap.log" >&2; fail "debootstrap failed"; }
    if command -v apt-config >/dev/null; then
        apt-config dump | grep -E '^Acquire::(http|https)::' >"$system/etc/apt/apt.conf.d/90host" || true
    fi
    for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
        [ ! -e "$file" ] || cp --dereference "$file" "$system$file"
    done
}

add_rust() {
    local home=${CARGO_HOME:-$HOME/.cargo} rust
    rust=$(rustc --print sysroot)
    [ -x "$rust/bin/cargo" ] || fail "$rust has no cargo"
    mkdir -p "$system/opt/rust" "$system/root/.cargo"
    cp -a "$rust/bin" "$rust/lib" "$system/opt/rust"
    for file in config.toml config; do
        [ ! -f "$home/$file" ] || cp "$home/$file" "$system/root/.cargo"
    done
    if [ -n "$crates" ]; then
        mkdir "$system/root/.cargo/registry"
        for part in index cache; do
            [ ! -d "$crates/$part" ] || cp -a --reflink=auto "$crates/$part" "$system/root/.cargo/registry"
        done
    fi
}

add_source() {
    git clone --quiet --depth 1 "file://$PWD" "$system/root/haima"
    if [ -n "$rocksdb" ]; then
        mkdir -p "$system/root/haima/target"
        cp -a "$rocksdb" "$system/root/haima/target/rocksdb"
    fi
}

mount_system() {
    for what in proc dev; do
        case $what in
        proc) mount -t proc proc "$system/proc" ;;
        dev) mount --bind /dev "$system/dev" ;;
        esac
        mounted+=("$system/$what")
    done
}

# Runs a command in the source's directory of the new system, with this machine's way to the network and nothing else of it.
inside() {
    local kept=() name
    while IFS='=' read -r name _; do
        case $name in
        http_proxy | https_proxy | no_proxy | all_proxy | HTTP_PROXY | HTTPS_PROXY | NO_PROXY | ALL_PROXY) ;;
        CARGO_HTTP_* | CARGO_NET_* | CARGO_SOURCE_* | CARGO_REGISTRIES_* | CARGO_REGISTRY_*) ;;
        *) continue ;;
        esac
        kept+=("$name=${!name}")
    done < <(env)
    chroot "$system" /usr/bin/env -i -C /root/haima HOME=/root LANG=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive \
        PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${kept[@]}" "$@"
}

# A field's text in JSON without nesting.
field() {
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"
}

# Starts the server as README says, and waits until it listens.
start_server() {
    : >"$directory/run.log"
    set -m
    inside CONDUIT_PORT="$port" make run >"$directory/run.log" 2>&1 &
    server=$!
    set +m
    until grep -q "listening on" "$directory/run.log"; do
        kill -0 "$server" 2>/dev/null || { tail -n 40 "$directory/run.log" >&2; fail "make run ended"; }
        sleep 1
    done
}

# The first account and the first message, as README has them.
talk() {
    local base=http://localhost:$port/_matrix/client/v3 token session access room event
    token=$(sed -n 's/.*with the token \([A-Za-z0-9]*\).*/\1/p' "$directory/run.log" | head -n 1)
    [ -n "$token" ] || fail "no token in the log"
    session=$(curl -s "$base/register" -d '{}' | field session)
    access=$(curl -s "$base/register" -d '{ "username": "alice", "password": "a long one, please",
        "auth": { "type": "m.login.registration_token", "token": "'"$token"'", "session": "'"$session"'" } }' | field access_token)
    [ -n "$access" ] || fail "no account was made"
    room=$(curl -s -H "Authorization: Bearer $access" "$base/createRoom" -d '{ "name": "Reef", "preset": "public_chat" }' | field room_id)
    [ -n "$room" ] || fail "no room was made"
    event=$(curl -s -H "Authorization: Bearer $access" -X PUT "$base/rooms/${room/\!/%21}/send/m.room.message/1" \
        -d '{ "msgtype": "m.text", "body": "hello" }' | field event_id)
    [ -n "$event" ] || fail "no message was sent"
    echo "alice sent $event to $room"
}

stop_server() {
    kill -INT -- "-$server"
    wait "$server" || true
    # The shell that was waited for may end before what it started.
    while kill -0 -- "-$server" 2>/dev/null; do
        sleep 0.1
    done
    server=
    grep -q "stopped" "$directory/run.log" || fail "the server did not stop in order"
}

timed "debootstrap" make_system
add_rust
add_source
mount_system
! inside .ci/has-libclang || fail "the new system has libclang before it was installed"
timed "make deps" inside make deps
inside .ci/has-libclang || fail "make deps did not install what bindgen loads"
# What the first command would do anyway, by itself, so that the network's time is told apart.
timed "cargo fetch" inside cargo fetch --locked --quiet
if [ -z "$only_deps" ]; then
    timed "make run, until the server listens" start_server
    talk
    stop_server
    timed "make test" inside make test
    times+=("target directory: $(du -sh "$system/root/haima/target" | cut -f1)")
fi
echo "Debian $(cat "$system/etc/debian_version"), $("$system/opt/rust/bin/rustc" --version), $(nproc) cores, $(git -C "$system/root/haima" rev-parse --short HEAD)"
[ -z "$rocksdb" ] || echo "(with a library of RocksDB that was built before)"
printf '%s\n' "${times[@]}"
