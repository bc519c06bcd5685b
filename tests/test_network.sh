#!/usr/bin/env bash
# A run over a shaped LAN against the time that the virtual clock gives for it from a run at full speed: within 15 %, in both
# settings. The machine may be busy: the least of up to twelve attempts counts. usage: test_network.sh BUILD_DIR
set -u
marill=$1/marill
models=$(cd "$(dirname "$0")/.." && pwd)/models
[ -x "$marill" ] && [ -d "$models/base" ] || { echo "skipped (no $marill, or no embedded model)"; exit 77; }
export TMPDIR=$(mktemp -d)
trap 'rm -rf "$TMPDIR"' EXIT

run() { timeout 100 "$marill" run --model "$models/base" --adapter "$models/translate" --max-tokens 6 --json --prompt 'German: Das ist ein Haus. English:' "$@"; }
# seconds FILE: of the reply, in the flat part of the JSON; replayed FILE: the same over the one network
seconds() { awk -F'[:,]' '/"decode"/ {on = 1} on && /"seconds"/ {print $2; exit}' "$1"; }
replayed() { awk -F'[:,]' '/"decode_seconds"/ {print $2; exit}' "$1"; }
least() { awk -v a="$1" -v b="$2" 'BEGIN {print a + 0 < b + 0 ? a + 0 : b + 0}'; }

bad=0
for setting in dealer 3pc; do
    real=1000 clock=1000
    for attempt in 1 2 3 4 5 6 7 8 9 10 11 12; do
        run --setting $setting --net virtual:lan > "$TMPDIR/virtual" || { echo "FAILED: $setting, virtual"; exit 1; }
        run --setting $setting --net lan > "$TMPDIR/lan" || { echo "FAILED: $setting, lan"; exit 1; }
        real=$(least "$real" "$(seconds "$TMPDIR/lan")") clock=$(least "$clock" "$(replayed "$TMPDIR/virtual")")
        near=$(awk -v r="$real" -v v="$clock" 'BEGIN {print (v > 0.85 * r && v < 1.15 * r) ? 1 : 0}')
        echo "$setting: $real s over a LAN, $clock s by the virtual clock"
        [ "$near" = 1 ] && break
    done
    [ "$near" = 1 ] || { echo "FAILED: $setting"; bad=1; }
done
exit $bad
