#!/usr/bin/env bash
# What the jail changes: a build that reaches for the user's files, without a jail and in it. Each line that begins with PASS or
# FAIL was checked in this run. Run it with `cargo xtask demo sandbox`, which starts a builder and a registry for it.
[ -n "${DEMO_DIR:-}" ] || { cd "$(dirname "$0")/.." && exec cargo xtask demo sandbox; }
# shellcheck source=demos/staging.sh
. "$(dirname "$0")/staging.sh"

arguments=(--progress plain --no-cache --build-arg "BASE=$BASE" --build-arg "KEY=$KEY" --build-arg "SERVICE=$SERVICE")

# reach FILE FLAG… : the hostile Dockerfile; what it got is in FILE.
reach() {
    local out=$1
    shift
    quietly "$out.said" "$KTL" build "$CONTEXT" "${arguments[@]}" "$@" -o "$out" || cat "$out.said"
}

# The same context under a frontend that somebody else wrote.
reach_by_frontend() {
    local out=$1
    shift
    reach "$out" --build-arg "BUILDKIT_SYNTAX=$FRONTEND" "$@"
}

got_nothing() {
    local name
    for name in link parent secret agent path; do is "$(answer "$1/run-report" "$name")" nothing || return 1; done
}

frontend_got_nothing() {
    local name found
    for name in context-link context-parent context-pattern home root own-container; do
        found=$(answer "$1/frontend" "$name")
        [ "$found" = nothing ] || [ "$found" = refused ] || return 1
    done
}

title "The user: a private key at $(tell "$KEY"), a registry login, and a context with links to them"
claim 'the key, /etc/shadow, the login and the builder'\''s socket are here, so that "hidden" says something' \
    test -s "$KEY" -a -e /etc/shadow -a -s "$LOGIN" -a -S "${KTL_BUILDER#unix://}"

title 'Baseline: the client without a jail'
reach "$DEMO_DIR/off" --sandbox=off
cat "$DEMO_DIR/off/run-report"
claim 'the build itself was handed its own file' is "$(answer "$DEMO_DIR/off/run-report" own-file)" got
claim 'ktl hands out nothing beyond the context, jail or not: a link is sent as a link' got_nothing "$DEMO_DIR/off"
hold "$DEMO_DIR/off.look" "$KTL" build "$CONTEXT" "${arguments[@]}" -f "$CONTEXT/hold.Dockerfile" --sandbox=off
cat "$DEMO_DIR/off.look"
for thing in key passwords login socket network processes rights; do
    claim "but the process that speaks with the builder has all of the user's: $thing" \
        is "$(answer "$DEMO_DIR/off.look" "$thing")" yes
done
echo 'Whoever finds a mistake in how it reads what a builder or a frontend sends, has them too.'

for runtime in nsjail native; do
    title "The same, jailed by $runtime"
    out=$DEMO_DIR/$runtime
    jail=(--sandbox --sandbox-runtime "$runtime")
    reach "$out" "${jail[@]}"
    claim "$runtime: the build goes through, and is handed its own file" is "$(answer "$out/run-report" own-file)" got
    claim "$runtime: the hostile Dockerfile got no link, parent, secret, agent or path" got_nothing "$out"
    claim "$runtime: honest: RUN runs at the builder, and reaches the builder's network as before" \
        is "$(answer "$out/run-report" network)" got
    hold "$out.look" "$KTL" build "$CONTEXT" "${arguments[@]}" -f "$CONTEXT/hold.Dockerfile" "${jail[@]}"
    cat "$out.look"
    for thing in key passwords login socket network processes rights; do
        claim "$runtime: the process that speaks with the builder has not: $thing" \
            is "$(answer "$out.look" "$thing")" no
    done
    claim "$runtime: and a system call filter is on it" is "$(answer "$out.look" filter)" yes
done

title 'A frontend that reaches: for a link, a parent, patterns, and directories that the build does not name'
for mode in off on; do
    out=$DEMO_DIR/frontend-$mode
    reach_by_frontend "$out" "--sandbox=$mode"
    cat "$out/frontend"
    claim "sandbox $mode: the frontend got the context's own file" is "$(answer "$out/frontend" context)" got
    claim "sandbox $mode: and nothing else of this machine" frontend_got_nothing "$out"
done
claim 'honest: the frontend runs at the builder as well, and has its network' \
    is "$(answer "$DEMO_DIR/frontend-on/frontend" network)" reached

title 'No network at all: --hermetic'
reach "$DEMO_DIR/hermetic" --hermetic=best-effort
claim 'with --hermetic=best-effort RUN reaches no network, on a builder that has one' is "$(answer "$DEMO_DIR/hermetic/run-report" network)" nothing

title 'One file is let in: --sandbox-bind'
hold "$DEMO_DIR/bind.look" "$KTL" build "$CONTEXT" "${arguments[@]}" -f "$CONTEXT/hold.Dockerfile" \
    --sandbox-bind "$KEY:/shown/id_demo:ro"
claim 'the file is there, under the name that it was given' is "$(answer "$DEMO_DIR/bind.look" shown)" yes
claim 'where it lies on the host is hidden as before' is "$(answer "$DEMO_DIR/bind.look" key)" no
claim 'and so is its neighbour, the login' is "$(answer "$DEMO_DIR/bind.look" login)" no
shown=$("$KTL" sandbox probe /shown/id_demo --context "$CONTEXT" --sandbox-bind "$KEY:/shown/id_demo:ro" 2>/dev/null |
    grep '^/shown')
echo "$shown"
read_only() { [[ $shown == *'VISIBLE (file, readable)'* ]]; }
claim 'it can be read and not written' read_only

title 'The log of a refusal: a registry that wants the login sent to another host'
mkdir "$DEMO_DIR/astray"
printf 'FROM %s/private:1\n' "$ASTRAY" >"$DEMO_DIR/astray/Dockerfile"
quietly "$DEMO_DIR/astray.said" "$KTL" build "$DEMO_DIR/astray" --progress plain \
    --sandbox-log-file "$DEMO_DIR/astray.jsonl" --json
claim 'the build fails with exit code 1' is $? 1
grep '"event":"broker"' "$DEMO_DIR/astray.jsonl"
claim 'the log says what was refused, and where the login should have gone' \
    grep -q '"event":"broker".*elsewhere\.example' "$DEMO_DIR/astray.jsonl"
claim 'the log has the proof of the jail' grep -q '"event":"proof"' "$DEMO_DIR/astray.jsonl"
no_secret() { ! grep -q -e not-a-real-password -e "$(printf 'ada:not-a-real-password' | base64)" "$1"; }
claim 'and not the login' no_secret "$DEMO_DIR/astray.jsonl"

title 'The log of a jail that is too tight: kept without being asked'
quietly "$DEMO_DIR/killed.said" "$KTL" build "$CONTEXT" "${arguments[@]}" --sandbox-config "$CONTEXT/killing.cfg"
claim 'a guest that its filter kills ends the build with exit code 4' is $? 4
cat "$DEMO_DIR/killed.said"
kept=$(sed -n 's/.*log of the sandbox was kept: //p' "$DEMO_DIR/killed.said")
claim 'the message names the log, and the log the signal' grep -q '"event":"killed","signal":31' "${kept:-/nothing}"

finish sandbox-demo
