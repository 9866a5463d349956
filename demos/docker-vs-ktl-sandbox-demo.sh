#!/usr/bin/env bash
# The same malicious build through docker buildx, buildctl and ktl, on one builder, side by side. Every cell was measured in this
# run. Run it with `cargo xtask demo docker-vs-ktl`, which starts a builder and a registry for it.
[ -n "${DEMO_DIR:-}" ] || { cd "$(dirname "$0")/.." && exec cargo xtask demo docker-vs-ktl; }
# shellcheck source=demos/staging.sh
. "$(dirname "$0")/staging.sh"
: "${BUILDCTL:?}" "${BUILDX:?}"

clients=(buildx buildctl ktl)
export BUILDX_CONFIG=$DEMO_DIR/buildx BUILDX_NO_DEFAULT_ATTESTATIONS=1
"$BUILDX" create --name demo --driver remote "$KTL_BUILDER" >/dev/null || exit 1

# command CLIENT DOCKERFILE OUT FLAG… : sets `command` to how this client is told to do the build; no output without OUT.
# `offline` stands for the client's own way of taking the network from RUN.
command_of() {
    local client=$1 file=$2 out=$3 flag name
    shift 3
    case $client in
    buildx) command=("$BUILDX" build --builder demo --progress plain --no-cache -f "$CONTEXT/$file") ;;
    buildctl)
        command=("$BUILDCTL" --addr "$KTL_BUILDER" build --progress plain --no-cache --frontend dockerfile.v0
            --local "context=$CONTEXT" --local "dockerfile=$CONTEXT" --opt "filename=$file")
        ;;
    ktl) command=("$KTL" build --builder "$KTL_BUILDER" --progress plain --no-cache -f "$CONTEXT/$file") ;;
    esac
    for flag in "BASE=$BASE" "KEY=$KEY" "SERVICE=$SERVICE" "$@"; do
        case $client,$flag in
        buildx,offline) command+=(--network none) ;;
        buildctl,offline) command+=(--opt force-network-mode=none) ;;
        ktl,offline) command+=(--hermetic=best-effort) ;;
        buildctl,*) command+=(--opt "build-arg:$flag") ;;
        *) command+=(--build-arg "$flag") ;;
        esac
    done
    [ -z "$out" ] || command+=(--output "type=local,dest=$out")
    [ "$client" = buildctl ] || command+=("$CONTEXT")
}

for client in "${clients[@]}"; do
    title "$client"
    out=$DEMO_DIR/$client
    command_of "$client" Dockerfile "$out"
    quietly "$out.said" "${command[@]}" || cat "$out.said"
    command_of "$client" Dockerfile "$out-frontend" "BUILDKIT_SYNTAX=$FRONTEND"
    quietly "$out.said" "${command[@]}" || cat "$out.said"
    command_of "$client" Dockerfile "$out-offline" offline
    quietly "$out.said" "${command[@]}" || cat "$out.said"
    command_of "$client" hold.Dockerfile ''
    hold "$out.look" "${command[@]}"
done

# row TEXT FILE NAME: one line of the table. FILE is what follows the client's name.
row() {
    local client cells=()
    for client in "${clients[@]}"; do cells+=("$(answer "$DEMO_DIR/$client$2" "$3")"); done
    printf '  %-58s %-14s %-10s %s\n' "$1" "${cells[@]}"
}

title 'Side by side'
printf '  %-58s %-14s %-10s %s\n' '' 'docker buildx' buildctl ktl
echo 'What the build is handed'
row 'its own file (the counter-check)' /run-report own-file
row 'a file behind a link out of the context' /run-report link
row 'a file beside the context, by a link to ..' /run-report parent
row 'a secret that was not given' /run-report secret
row 'an ssh agent that was not given' /run-report agent
echo 'What a frontend from elsewhere gets when it asks the client'
row 'the context' -frontend/frontend context
row 'a file behind a link out of the context' -frontend/frontend context-link
row 'a path above the context' -frontend/frontend context-parent
row 'patterns that leave the context' -frontend/frontend context-pattern
row 'your home, as a directory of that name' -frontend/frontend home
row '/, as a directory of that name' -frontend/frontend root
echo 'What the process has that speaks with the builder, if it is taken over'
row 'your private key' .look key
row '/etc/shadow in its sight' .look passwords
row 'your registry logins, as a file' .look login
row "the builder's socket, as a file" .look socket
row "this machine's network" .look network
row "this machine's processes" .look processes
row 'your rights on this machine' .look rights
row 'a system call filter' .look filter
echo 'What RUN reaches: it runs at the builder, whoever the client is'
row "the builder's network" /run-report network
row 'the same, with the network turned off by the client' -offline/run-report network
echo
echo '  RUN is not in the jail of any of them. Turning its network off is what --network none, force-network-mode=none and'
echo '  --hermetic do; ktl alone fails when the builder is too old to honour it. ktl'\''s host side keeps your rights as well; it'
echo '  dials, starts the jail and answers its questions by rule, and parses nothing that a builder sends. A builder that is in'
echo '  a jail itself is ktl build --builder jail://; this one is not.'

title 'Claims'
all() {
    local want=$1 file=$2 name=$3 client
    for client in "${clients[@]}"; do is "$(answer "$DEMO_DIR/$client$file" "$name")" "$want" || return 1; done
}
none() {
    local file=$1 name=$2 client found
    for client in "${clients[@]}"; do
        found=$(answer "$DEMO_DIR/$client$file" "$name")
        [ "$found" = nothing ] || [ "$found" = refused ] || return 1
    done
}
claim 'all three build the same thing' all got /run-report own-file
for name in link parent secret agent; do
    claim "none of them hands RUN what was not given: $name" none /run-report "$name"
done
claim 'all three give a frontend the context' all got -frontend/frontend context
for name in context-link context-parent context-pattern home root; do
    claim "none of them gives a frontend more: $name" none -frontend/frontend "$name"
done
for name in key passwords login socket network processes rights; do
    for client in buildx buildctl; do
        claim "$client, taken over, has: $name" is "$(answer "$DEMO_DIR/$client.look" "$name")" yes
    done
    claim "ktl, taken over, has not: $name" is "$(answer "$DEMO_DIR/ktl.look" "$name")" no
done
claim 'ktl alone is under a system call filter' is \
    "$(for client in "${clients[@]}"; do answer "$DEMO_DIR/$client.look" filter; done)" nonoyes
claim 'RUN reaches the network through all three: a jail around the client changes nothing of that' \
    all got /run-report network
claim 'and through none when the client turns it off' none -offline/run-report network

finish docker-vs-ktl-sandbox-demo
