#!/usr/bin/env bash
# Every benchmark runs and prints what it promises; the figures themselves are for `make bench`. usage: test_bench.sh BUILD_DIR
set -u
marill=$1/marill
[ -x "$marill" ] || { echo "skipped (no $marill)"; exit 77; }
tmp=$(mktemp -d)
export TMPDIR=$tmp
trap 'rm -rf "$tmp"' EXIT
. "$(dirname "$0")/script.sh"
# fields WORD...: every word is a key of the JSON that came last
fields() { local word; for word; do grep -q "\"$word\":" "$tmp/out" || complain "the JSON lacks the field $word"; done; }

expect 0 "usage: marill bench" "$marill" bench --help
expect 2 "what to measure is missing" "$marill" bench
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

block=("$marill" bench block --shape gpt2-small --tokens 4 --repeat 1)
expect 2 "--shape is missing" "$marill" bench block --setting dealer
expect 2 "is dealer or 3pc" "${block[@]}" --setting clear
expect 2 "more than the context" "$marill" bench block --shape gpt2-small --tokens 2000 --setting 3pc
expect 0 "from shared input to shared output" "${block[@]}" --setting 3pc --prefer exchanges
mkdir "$tmp/tiny"
printf '%s' '{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
"num_key_value_heads":2,"intermediate_size":96,"vocab_size":64,"max_position_embeddings":64,"rms_norm_eps":1e-5,"rope_theta":10000,
"hidden_act":"silu"}' > "$tmp/tiny/config.json"
expect 0 "4 tokens after 3" "$marill" bench block --shape "$tmp/tiny/" --tokens 4 --repeat 2 --setting 3pc --private lora --rank 8 --past 3 --merge 2
expect 0 "RTT=2ms" "$marill" bench block --shape "$tmp/tiny/" --tokens 2 --repeat 1 --setting dealer --net RTT=2ms,BW=1000Mbit
expect 0 '"shape": "gpt2-small"' "${block[@]}" --setting dealer --json
fields tokens setting seconds plain_seconds cpu_seconds client server third exchanges bytes setup_bytes max_abs_error peak_rss_mb \
    replayed_seconds predicted_seconds asked met
[ "$(ls "$tmp" | grep -c marill-)" = 0 ] || complain "a block leaves files behind"

mkdir "$tmp/results"
cp "$tmp/out" "$tmp/results/block.json"
expect 0 "| case | s | float, s |" "$marill" bench report "$tmp/results"
expect 0 "## 6. Seconds" "$marill" bench report "$tmp/results"
grep -q "## 1" "$tmp/out" && complain "a section without results is printed"
printf '%s' '{"bench":"block","asked":[{"name":"exchanges","value":19,"asked":17,"met":false}]}' > "$tmp/results/block-gpt2-small-3pc-exchanges.json"
printf '%s' '{"figures":[{"name":"sums","best":3,"unit":"GB/s","of":"loads","share":0.25,"ask":"share","asked":0.6,"met":false}]}' > "$tmp/results/lookup.json"
printf '%s' '{"bench":"generate","to_plain":{"token":4.5},"peak_rss_beyond_map_mb":{"client":1,"server":2000,"third":3}}' \
    > "$tmp/results/generate-open-llama-3b-dealer.json"
expect 0 "| <= 17 |  | 19 |  |  | [**no**]" "$marill" bench report "$tmp/results"
expect 0 ">= 60 % | 25 % of loads | [**no**]" "$marill" bench report "$tmp/results"
expect 0 "| <= 4 | 4.5 | [**no**]" "$marill" bench report "$tmp/results"
expect 0 "| <= 2000 | 1, 2000, 3 | yes |" "$marill" bench report "$tmp/results"
expect 0 "gpt2-small 4" "$marill" bench pick "$tmp/results/block.json" shape tokens
expect 1 "there is no value" "$marill" bench pick "$tmp/results/block.json" shape nothing.at.all
expect 1 "No such file" "$marill" bench report "$tmp/none"

expect 0 "all links" "$marill" bench costs

expect 0 '"ring_kernels": "portable"' "$marill" bench block --shape "$tmp/tiny/" --tokens 2 --repeat 1 --setting 3pc --kernels portable --json
expect 2 "--kernels is one of best, portable" "${block[@]}" --setting 3pc --kernels fastest
expect 0 "third, 3 threads" "$marill" bench threads --shape "$tmp/tiny/" --tokens 4 --repeat 1 --threads 3
expect 0 '"bench": "threads"' "$marill" bench threads --shape "$tmp/tiny/" --tokens 1 --repeat 1 --kernels avx2 --prefer exchanges --json
fields machine figures best share of
expect 2 "more than the context" "$marill" bench threads --tokens 2000

exit $bad
