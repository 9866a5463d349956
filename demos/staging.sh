# What the demos share: the stage that `cargo xtask demo` has set, claims, and a look at a client from outside. Sourced.
#
# From cargo xtask: KTL, BUILDCTL, BUILDX (programs), KTL_BUILDER (address of a buildkitd), KTL_SANDBOX_BIN (nsjail), BASE and
# FRONTEND (images in a registry of the demo's own), SERVICE (HOST:PORT of that registry, here any service on loopback), ASTRAY
# (HOST:PORT of a registry that sends logins to another host), DEMO_DIR (an empty directory that goes away afterwards).

set -uo pipefail
: "${KTL:?}" "${KTL_BUILDER:?}" "${KTL_SANDBOX_BIN:?}" "${BASE:?}" "${FRONTEND:?}" "${SERVICE:?}" "${ASTRAY:?}" "${DEMO_DIR:?}"
demos=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# A user with a private key and a registry login, and a context that points at them.
export HOME=$DEMO_DIR/home
unset XDG_CACHE_HOME KTL_CACHE_DIR DOCKER_CONFIG SSH_AUTH_SOCK KTL_SANDBOX_RUNTIME BUILDKIT_HOST
KEY=$HOME/.ssh/id_demo
LOGIN=$HOME/.docker/config.json
CONTEXT=$DEMO_DIR/context
mkdir -p "$HOME/.ssh" "$HOME/.docker"
printf 'not a real key\n' >"$KEY"
chmod 600 "$KEY"
printf '{"auths":{"%s":{"auth":"%s"}}}\n' "$ASTRAY" "$(printf 'ada:not-a-real-password' | base64)" >"$LOGIN"
cp -R "$demos/hostile" "$CONTEXT"
ln -s "$KEY" "$CONTEXT/link-to-key"
ln -s .. "$CONTEXT/link-to-parent"

claims=0
failed=0

# claim TEXT COMMAND… : PASS when the command succeeds.
claim() {
    local text=$1
    shift
    claims=$((claims + 1))
    if "$@"; then
        printf 'PASS  %s\n' "$text"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s\n      this does not hold: %s\n' "$text" "$*"
    fi
}

# The last line, and the exit status of the demo. No claim at all is no success.
finish() {
    printf '\n%s: %d of %d claims hold\n' "$1" "$((claims - failed))" "$claims"
    [ "$claims" -gt 0 ] && [ "$failed" -eq 0 ]
}

title() { printf '\n== %s\n' "$1"; }

# Shows a command as a person would type it, and runs it; what it says goes to FILE.
quietly() {
    local file=$1
    shift
    printf '$ %s\n' "$(tell "$@")"
    "$@" >"$file" 2>&1
}

tell() {
    local line="$*"
    line=${line//$KTL/ktl}
    line=${line//${BUILDCTL:-buildctl}/buildctl}
    line=${line//${BUILDX:-buildx}/docker buildx}
    line=${line//$KEY/\~/.ssh/id_demo}
    printf '%s' "${line//$DEMO_DIR/.}"
}

# answer FILE NAME: what the report says of that name; nothing that could pass for an answer when it says nothing.
answer() {
    local found
    found=$(sed -n "s/^$2: //p" "$1" 2>/dev/null)
    printf '%s' "${found:-no answer}"
}

is() { [ "$1" = "$2" ]; }

# All processes below this one.
descendants() {
    local child
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do
        printf '%s\n' "$child"
        descendants "$child"
    done
}

# The process that speaks with the builder: the client itself, or where a jail is below it, the last one in there.
speaker() {
    local pid own found=$1
    own=$(readlink /proc/self/ns/mnt)
    for pid in $(descendants "$1"); do
        [ "$(readlink "/proc/$pid/ns/mnt" 2>/dev/null)" != "$own" ] && found=$pid
    done
    printf '%s' "$found"
}

# look PID FILE: what this process could lay its hands on, whoever made it do so. Asked of the kernel, from outside: the root
# that it has, its namespaces, its filter. A process that is gone has answers to nothing.
look() {
    local pid=$1 file=$2 root=/proc/$1/root path
    : >"$file"
    [ -r "/proc/$pid/status" ] && [ -e "$root/proc" ] || return 1
    visible() { if [ -e "$root$1" ]; then echo yes; else echo no; fi; }
    same() { if [ "$(readlink "/proc/$pid/ns/$1")" = "$(readlink "/proc/self/ns/$1")" ]; then echo yes; else echo no; fi; }
    {
        echo "key: $(visible "$KEY")"
        echo "passwords: $(visible /etc/shadow)"
        echo "login: $(visible "$LOGIN")"
        echo "socket: $(visible "${KTL_BUILDER#unix://}")"
        echo "shown: $(visible /shown/id_demo)"
        echo "network: $(same net)"
        echo "processes: $(same pid)"
        echo "rights: $(same user)"
        echo "filter: $(if grep -q '^Seccomp:[[:space:]]*2' "/proc/$pid/status"; then echo yes; else echo no; fi)"
    } >"$file"
}

# hold FILE COMMAND… : starts a client, waits until its build is under way, looks at it, and ends it.
hold() {
    local file=$1 client said=$1.said waited=0
    shift
    printf '$ %s\n' "$(tell "$@")"
    "$@" >"$said" 2>&1 &
    client=$!
    # Minutes, for a machine that is busy; a build that ends before is looked at in vain.
    until grep -q 'holding the line$' "$said"; do
        waited=$((waited + 1))
        if [ "$waited" -gt 3000 ] || ! kill -0 "$client" 2>/dev/null; then
            cat "$said"
            break
        fi
        sleep 0.1
    done
    look "$(speaker "$client")" "$file"
    kill -TERM "$client" 2>/dev/null
    wait "$client" 2>/dev/null
}
