#!/usr/bin/env bash
# bench generate on a tiny shape: three processes, what it prints, what it refuses. usage: test_bench_generate.sh BUILD_DIR
set -u
marill=$1/marill
[ -x "$marill" ] || { echo "skipped (no $marill)"; exit 77; }
command -v python3 > /dev/null || { echo "skipped (no python3)"; exit 77; }
tmp=$(mktemp -d)
export TMPDIR=$tmp
trap 'rm -rf "$tmp"' EXIT
bad=0
complain() { echo "FAILED: $*"; bad=1; }
mkdir "$tmp/tiny"
echo '{"model_type":"llama","hidden_size":64,"intermediate_size":96,"num_hidden_layers":6,"num_attention_heads":4,"vocab_size":300,
       "max_position_embeddings":128,"bos_token_id":1}' > "$tmp/tiny/config.json"
generate() {                                    # in a folder of its own, so that sessions do not share one
    timeout 120 "$marill" bench generate --shape "$tmp/tiny" --prompt-tokens 10 --tokens 4 --rank 4 --cache "$tmp/cache" "$@" \
        > "$tmp/out" 2> "$tmp/err" < /dev/null
}
# check EXPRESSION OPTIONS...: of the JSON, as d
check() {
    local what=$1
    shift
    generate "$@" --json || { complain "'$*': $(head -c 300 "$tmp/err")"; return; }
    python3 -c "import json; d = json.load(open('$tmp/out')); assert len(d['tokens']) == 4 and d['plain']['seconds_per_token'] > 0; assert $what, d" \
        2> "$tmp/err" || complain "'$*': $(tail -c 600 "$tmp/err")"
}
refused() {
    local part=$1
    shift
    generate "$@"
    [ $? = 2 ] && grep -qF -- "$part" "$tmp/err" || complain "'$*' is not refused with '$part': $(head -c 300 "$tmp/err")"
}

sound="d['max_abs_error'] < 0.1 * d['logit_rms']"
check "$sound and d['prefill']['exchanges'] == 59 and d['decode']['exchanges'] == 3 * 59" --setting 3pc
check "$sound and d['prefill']['exchanges'] == 3 * 23 + 5" --setting 3pc --prefer bytes
check "$sound and d['scaled']['to'] == 5 and d['prefill']['exchanges'] == 5 * 23 + 5" --setting dealer --prefer bytes --frozen 1 --layers 3
check "$sound and d['merge'] == 2" --setting 3pc --merge 2
check "$sound and d['rank'] == 0" --setting 3pc --private layers
check "$sound and d['known'] == 20 and d['decode']['bytes']['third_to_server'] == 0" --setting dealer --known-prefix 20 --net lan
check "d['known'] == 30 and 'past' in d['synthetic'] and 'max_abs_error' not in d" --setting 3pc --synthetic-past 30 --context 64
refused "--setting is dealer or 3pc" --setting plain
refused "merge" --setting 3pc --merge 3
refused "--layers must be" --setting 3pc --layers 9
refused "--context 5 is less" --setting 3pc --context 5
refused "the same positions" --setting 3pc --known-prefix 2 --synthetic-past 4
refused "--net loopback" --setting 3pc --layers 2 --net wan
generate --setting 3pc && grep -q "secure to plain" "$tmp/out" || complain "no table: $(head -c 300 "$tmp/err")"
exit $bad
