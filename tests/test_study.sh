#!/usr/bin/env bash
# The study's rows, tables and plots from a folder of results, and the check that runs agree. usage: test_study.sh BUILD_DIR
set -u
marill=$1/marill
[ -x "$marill" ] || { echo "skipped (no $marill)"; exit 77; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. "$(dirname "$0")/script.sh"

# cell NAME METHOD MERGE PRUNE FLOAT SECURE
cell() {
    local dir=$tmp/study/translate/$1
    mkdir -p "$dir"
    printf '{"cell": "%s", "method": "%s", "frozen": 4, "rank": 64, "merge": %s, "prune": %s}' "$1" "$2" "$3" "$4" > "$dir/cell.json"
    printf '{"samples": 90, "scores": {"chrf": {"value": %s, "low": 1, "high": 99}}}' "$5" > "$dir/plain.json"
    if [ -z "$6" ]; then cp "$dir/plain.json" "$dir/sample.json"; echo "public" > "$dir/refused.txt"; return; fi
    printf '{"samples": 9, "scores": {"chrf": {"value": %s, "low": 1, "high": 99}, "plain_chrf": {"value": %s, "low": 1, "high": 99}}}' "$6" "$5" \
        > "$dir/clear.json"
    for setting in dealer 3pc; do
        printf '{"decode": {"tokens": 4, "exchanges": 40, "bytes": {"client_to_server": 100, "server_to_client": 300}},
            "networks": {"loopback": {"decode_seconds": 1}, "lan": {"decode_seconds": 2}, "wan": {"decode_seconds": 8}}}' > "$dir/run-$setting-1.json"
    done
    touch "$dir/agree.txt"
}
cell base base 1 1 20 ""
cell standard standard 1 1 60 60
cell marill marill 4 1 58 59
cell marill-prune-4 pruning 1 4 50 40
cell unfinished lora 1 1 50 50
rm "$tmp/study/translate/unfinished/agree.txt"

expect 0 '"quality_secure": 59' "$marill" bench study "$tmp/study"
cp "$tmp/out" "$tmp/study.json"
[ "$(grep -c '"cell"' "$tmp/study.json")" = 25 ] || complain "one row of the base and six of each other cell are due"
for want in '"seconds_per_token": 2' '"bytes_per_token": 100' '"exchanges_per_token": 10' '"reason": "public"' 'not been found to agree'; do
    grep -qF "$want" "$tmp/study.json" || complain "no $want among the rows"
done
expect 0 "| translate | 98 % | yes |" "$marill" bench study-report "$tmp/study.json"
expect 0 "| translate | 4 | 59.0 (1.0 to 99.0) | 40.0 (1.0 to 99.0) | yes, intervals overlap |" "$marill" bench study-report "$tmp/study.json"
expect 0 "| marill | 3pc | 0.2500 | 0.5000 | 2.000 | 0.000 | 10.0 |" "$marill" bench study-report "$tmp/study.json"
expect 0 "2 0 59 1 99 marill" "$marill" bench study-plot "$tmp/study.json" --task translate --plot pareto
expect 0 "4 1 40 1 99 marill-prune-4" "$marill" bench study-plot "$tmp/study.json" --task translate --plot heads
mkdir "$tmp/none"
expect 1 "there is no cell" "$marill" bench study "$tmp/none"

# run NAME TOKENS LOGITS: two tokens, two logits each, in octal bytes of float32 (1 is \0\0\200\077, 2 is \0\0\0\100)
run() { printf '{"tokens": [%s], "finish_reason": "length"}' "$2" > "$tmp/$1.json"; printf "$3" > "$tmp/$1.logits"; }
one='\000\000\200\077' two='\000\000\000\100' near='\315\314\214\077'
run a "0, 1" "$two$one$one$two"
run b "0, 1" "$two$near$one$two"
run c "0, 1" "$two$near$near$two"
run d "1, 1" "$one$two$one$two"
run e "0" "$two$one$one"
expect 0 "all 2 tokens" "$marill" bench same "$tmp/a.json" "$tmp/b.json" "$tmp/c.json"
expect 1 "disagrees" "$marill" bench same "$tmp/a.json" "$tmp/b.json" "$tmp/d.json"
expect 1 "e.json has 3" "$marill" bench same "$tmp/a.json" "$tmp/b.json" "$tmp/e.json"
expect 2 "two runs of clear" "$marill" bench same "$tmp/a.json" "$tmp/b.json"

exit $bad
