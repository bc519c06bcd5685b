#!/usr/bin/env bash
# Every benchmark runs and prints what it promises; the figures themselves are for `make bench`. usage: test_bench.sh BUILD_DIR
set -u
marill=$1/marill
[ -x "$marill" ] || { echo "skipped (no $marill)"; exit 77; }
tmp=$(mktemp -d)
export TMPDIR=$tmp
trap 'rm -rf "$tmp"' EXIT
bad=0
complain() { echo "FAILED: $*"; bad=1; }
# expect STATUS PART COMMAND...: exit status, and a part of what it prints on either stream
expect() {
    local want=$1 part=$2 got
    shift 2
    timeout 120 "$@" > "$tmp/out" 2> "$tmp/err" < /dev/null
    got=$?
    [ "$got" = "$want" ] || complain "'${*:2}' ended with $got, not $want: $(head -c 300 "$tmp/err")"
    cat "$tmp/out" "$tmp/err" | grep -qF -- "$part" || complain "'${*:2}' does not say '$part': $(head -c 300 "$tmp/err")"
}
# fields WORD...: every word is a key of the JSON that came last
fields() { local word; for word; do grep -q "\"$word\":" "$tmp/out" || complain "the JSON lacks the field $word"; done; }

expect 0 "usage: marill bench" "$marill" bench --help
expect 2 "WHAT is missing" "$marill" bench
expect 2 "'speed' is none of" "$marill" bench speed
expect 2 "--threads must be a whole number" "$marill" bench limits --threads 0
for what in limits lookup matmul deal pack; do
    expect 0 "best" "$marill" bench $what --seconds 0.001
    expect 0 "\"bench\": \"$what\"" "$marill" bench $what --seconds 0.001 --json
    fields machine processor figures best median unit
done
expect 0 "pool of" "$marill" bench pool --positions 2 --rank 4 --repeat 1 --folder "$tmp"
expect 0 '"bench": "pool"' "$marill" bench pool --positions 2 --rank 4 --repeat 1 --folder "$tmp" --json
fields machine figures best unit share of asked
expect 1 "no-such" "$marill" bench pool --positions 2 --rank 4 --folder "$tmp/no-such"
compgen -G "$tmp/marill-rate*" > /dev/null && complain "left behind:" "$tmp"/marill-rate*

exit $bad
