#!/usr/bin/env bash
# The command line as other tools rely on it: help, exit statuses, JSON fields, every setting on a small trained model, and a
# deployment by hand. usage: test_cli.sh BUILD_DIR
set -u
marill=$1/marill
data=$(cd "$(dirname "$0")/.." && pwd)/../shared/data
[ -x "$marill" ] || { echo "skipped (no $marill)"; exit 77; }
tmp=$(mktemp -d)
export TMPDIR=$tmp
parties=()
trap 'for p in "${parties[@]}"; do kill "$p" 2> /dev/null; done; rm -rf "$tmp"' EXIT
. "$(dirname "$0")/script.sh"
# fields NAME FILE WORD...: every word is a key of the JSON
fields() {
    local name=$1 file=$2 word
    shift 2
    for word; do grep -q "\"$word\":" "$file" || complain "$name lacks the field $word"; done
}

expect 0 "usage: marill COMMAND" "$marill" --help
expect 0 "marill 0." "$marill" --version
for command in demo run eval train tune export calibrate plan keygen serve third chat pool; do
    expect 0 "usage: marill $command" "$marill" $command --help
    [ -s "$tmp/err" ] && complain "$command --help writes on standard error"
done
expect 2 "no command" "$marill"
expect 2 "unknown command 'frobnicate'" "$marill" frobnicate
expect 2 "unknown option --frobnicate" "$marill" run --frobnicate
expect 2 "--model needs a value" "$marill" run --model
expect 2 "--model is given twice" "$marill" run --model a --model b
expect 2 "--setting is missing" "$marill" run --model a
expect 2 "--setting is one of" "$marill" run --model a --setting 4pc
expect 2 "2pc" "$marill" run --model a --setting 2pc --prompt x
expect 2 "one of --prompt and --prompt-file" "$marill" run --model a --setting plain
expect 2 "--max-tokens must be a whole number" "$marill" run --model a --setting plain --prompt x --max-tokens -1
expect 2 "--temperature must be a number" "$marill" run --model a --setting plain --prompt x --temperature hot
expect 2 "unexpected argument 'x'" "$marill" run x
expect 2 "--json takes no value" "$marill" run --json=1
expect 2 "--net is loopback" "$marill" run --model a --setting plain --prompt x --net RTT=40
expect 0 "layers are secure" "$marill" plan --shape gpt2-small --setting 3pc
expect 2 "--net is loopback" "$marill" plan --model a --setting 3pc --net moon
expect 2 "64 hex digits" "$marill" serve --model a --key b --client zz
expect 2 "HOST:PORT" "$marill" third --listen 7100

stories=$data/weights/stories260K
[ -d "$stories" ] || { echo "skipped (development data ../shared/data is absent)"; exit $((bad ? 1 : 77)); }
model=$tmp/model
mkdir "$model" && cp "$stories"/{config.json,model.safetensors,tokenizer.model} "$model"
head -c 20000 "$data/text/tinystories_sample_2MiB.txt" > "$tmp/text"

# plain, and what a seed decides
expect 0 "there was a little girl named Lily" "$marill" run --model "$model" --setting plain --prompt "Once upon a time" --max-tokens 30
expect 0 "there was a little girl" "$marill" run --model "$model" --setting plain --prompt-file <(printf 'Once upon a time') --max-tokens 30
once=(--prompt "Once upon a time")
draw() { "$marill" run --model "$model" --setting plain "${once[@]}" --max-tokens 30 --temperature 1 --top-p 0.9 --seed "$1"; }
[ "$(draw 1)" = "$(draw 1)" ] || complain "the same seed draws differently"
[ "$(draw 1)" = "$(draw 2)" ] && complain "another seed draws the same"

# a folder without a plan: run makes one and says so; serve refuses and names the command
expect 0 "has no plan: calibrating" "$marill" run --model "$model" --setting clear --prompt "Once upon a time" --max-tokens 4
"$marill" keygen "$tmp/client" > "$tmp/client.pub" || complain "keygen"
"$marill" keygen "$tmp/provider" > "$tmp/provider.pub" || complain "keygen"
"$marill" keygen "$tmp/third" > "$tmp/third.pub" || complain "keygen"
[ "$(stat -c %a "$tmp/client.key")" = 600 ] || complain "a key that others may read"
grep -qxE '[0-9a-f]{64}' "$tmp/client.pub" || complain "keygen prints no public key"
client=$(cat "$tmp/client.pub") provider=$(cat "$tmp/provider.pub") third=$(cat "$tmp/third.pub")
serve=("$marill" serve --model "$model" --key "$tmp/provider.key" --client "$client" --third-key "$third")
expect 1 "marill calibrate --model $model" "${serve[@]}" --third 127.0.0.1:1
expect 0 "marill-plan.json" "$marill" calibrate --model "$model" --text "$tmp/text" --context 128 --frozen 2

# every setting says the same, with every field
for setting in plain clear 3pc dealer; do
    expect 0 '"text"' "$marill" run --model "$model" --setting $setting "${once[@]}" --max-tokens 8 --json --logits "$tmp/logits"
    fields "run $setting" "$tmp/out" setting prompt_tokens tokens text finish_reason prefill seconds exchanges bytes decode setup \
        peak_rss_mb client server third client_to_server server_to_client third_to_client third_to_server client_to_third server_to_third
    grep -q "there was a littl" "$tmp/out" || complain "$setting generates: $(grep text "$tmp/out")"
    [ "$(stat -c %s "$tmp/logits")" = $((8 * 512 * 4)) ] || complain "$setting: --logits wrote $(stat -c %s "$tmp/logits") bytes"
    [ -s "$tmp/err" ] && complain "$setting writes on standard error: $(cat "$tmp/err")"
done
for setting in clear 3pc; do
    expect 0 '"loss"' "$marill" eval --model "$model" --setting $setting --text "$tmp/text" --limit 60 --json
    fields "eval $setting" "$tmp/out" setting positions loss plain_loss argmax_agreement max_abs_error
done
printf '{"prompt": "Once upon a", "completion": " time"}\n' > "$tmp/task.jsonl"
expect 0 '"scores"' "$marill" eval --model "$model" --setting clear --task "$tmp/task.jsonl" --max-tokens 4 --json
fields "eval --task" "$tmp/out" samples scores chrf exact_match
expect 0 '1280 to test' "$marill" task sql --out "$tmp/sql" --data "$tmp/none" --seed 3
expect 0 '"scores"' "$marill" eval --model "$model" --setting plain --task "$tmp/sql/test.jsonl" --limit 6 --answers "$tmp/answers" --json
fields "eval --task sql" "$tmp/out" samples scores execution execution_seen execution_unseen exact_match plain_execution value low high
[ "$(wc -l < "$tmp/answers")" = 6 ] || complain "eval --answers wrote $(wc -l < "$tmp/answers") lines"
expect 1 "tatoeba_eng_deu.txt" "$marill" task translate --out "$tmp/sql" --data "$tmp/none"
expect 2 "TASK is one of" "$marill" task poem --out "$tmp/sql"
expect 0 '"decode"' "$marill" plan --model "$model" --setting 3pc --net lan --json
fields plan "$tmp/out" prefill decode exchanges_per_token bytes_per_token seconds_per_token client_to_server

# what a recipe would cost: private factors need fewer bytes than the standard model, and nothing is written
cat > "$tmp/recipe.yaml" << END
base: $model
out: never
context: 64
batch_tokens: 512
steps: 5
learning_rate: 1e-3
frozen: 2
lora: {rank: 4, targets: [q_proj, v_proj]}
upper: {norm: constant}
heads: {merge: 2}
sources:
  - {kind: lines, path: text, completion: "{0}"}
END
expect 0 "this recipe  dealer" "$marill" tune "$tmp/recipe.yaml" --dry-run
expect 0 '"standard"' "$marill" tune "$tmp/recipe.yaml" --dry-run --json
fields "tune --dry-run" "$tmp/out" recipe standard dealer 3pc lan wan seconds_per_token exchanges_per_token bytes_per_token pool_bytes left_out
pools=($(sed -n 's/.*"pool_bytes": \([0-9]*\).*/\1/p' "$tmp/out"))
[ "${pools[0]}" -lt $((pools[1] / 2)) ] || complain "tune --dry-run: pools of ${pools[*]} bytes"
grep -q '"secure_layers": 3' "$tmp/out" || complain "tune --dry-run counts other secure layers"
[ -e "$tmp/never" ] && complain "tune --dry-run writes"
expect 2 "--json goes with --dry-run" "$marill" tune "$tmp/recipe.yaml" --json
expect 2 "unknown option --json" "$marill" train "$tmp/recipe.yaml" --json
expect 0 '"wan"' "$marill" run --model "$model" --setting dealer --prompt "Once upon a time" --max-tokens 2 --net virtual --json
fields "run --net virtual" "$tmp/out" networks loopback lan wan setup_seconds prefill_seconds decode_seconds
expect 0 '"RTT=1ms,BW=1000Mbit"' "$marill" run --model "$model" --setting 3pc --prompt "Once upon a time" --max-tokens 2 \
    --net virtual:RTT=1ms,BW=1000Mbit --json
expect 2 "needs parties" "$marill" run --model "$model" --setting plain --prompt x --net virtual

# a prefix that both know: the same reply in every setting
expect 0 "$tmp/known.json" "$marill" calibrate --model "$model" --text "$tmp/text" --context 128 --known-prefix "Once upon a" --out "$tmp/known.json"
grep -q '"known_tokens"' "$tmp/known.json" || complain "the plan names no known tokens"
for setting in plain clear dealer 3pc; do
    expect 0 '' "$marill" run --model "$model" --plan "$tmp/known.json" --setting $setting --prompt " time" --max-tokens 12
    [ $setting = plain ] && cp "$tmp/out" "$tmp/known"
    cmp -s "$tmp/out" "$tmp/known" || complain "after a known prefix, $setting says: $(cat "$tmp/out"), plain: $(cat "$tmp/known")"
done
expect 0 "100.00%" "$marill" eval --model "$model" --plan "$tmp/known.json" --setting clear --text "$tmp/text" --limit 20
expect 2 "leaves no room" "$marill" calibrate --model "$model" --text "$tmp/text" --context 4 --known-prefix "Once upon a time" --out "$tmp/no.json"
# heads merged by marill.json: in the plan, and in the float network that a run is compared with
cp -r "$model" "$tmp/grouped"
echo '{"variant": {"merge": 2}}' > "$tmp/grouped/marill.json"
expect 0 "$tmp/grouped.json" "$marill" calibrate --model "$tmp/grouped" --text "$tmp/text" --context 128 --out "$tmp/grouped.json"
grep -q '"merge": 2' "$tmp/grouped.json" || complain "the plan merges no heads"
expect 0 "same likeliest token" "$marill" eval --model "$tmp/grouped" --plan "$tmp/grouped.json" --setting clear --text "$tmp/text" --limit 20
echo '{"variant": {"head_groups": [[[0, 2], [1, 3]]]}}' > "$tmp/grouped/marill.json"
expect 2 "a variant from layer" "$marill" calibrate --model "$tmp/grouped" --text "$tmp/text" --context 128 --frozen 0 --out "$tmp/no.json"
last=$(($(grep -o '"num_hidden_layers": *[0-9]*' "$model/config.json" | grep -o '[0-9]*$') - 1))
expect 0 "$tmp/lists.json" "$marill" calibrate --model "$tmp/grouped" --text "$tmp/text" --context 128 --frozen $last --out "$tmp/lists.json"
grep -q '"head_groups"' "$tmp/lists.json" || complain "the plan has no groups of heads"
echo '{"variant": {"merge": 3}}' > "$tmp/grouped/marill.json"
expect 2 "does not divide" "$marill" run --model "$tmp/grouped" --setting plain --prompt x
expect 0 "$tmp/merged" "$marill" export --merged "$tmp/merged" --model "$model"
expect 0 "there was a little" "$marill" run --model "$tmp/merged" --setting plain --prompt "Once upon a time" --max-tokens 20

# a deployment by hand
helper=("$marill" third --key "$tmp/third.key" --client "$client" --provider "$provider" --listen 127.0.0.1:0)
"${helper[@]}" --once > "$tmp/third.log" 2>&1 & parties+=($!)
third_at=$(started third)
"${serve[@]}" --third "$third_at" --listen 127.0.0.1:0 --once > "$tmp/serve.log" 2>&1 & parties+=($!)
provider_at=$(started serve)
chat=("$marill" chat --model "$model" --key "$tmp/client.key" --provider-key "$provider" --max-tokens 8)
printf 'Once upon a time\nOne day\n' |
    timeout 60 "${chat[@]}" --provider "$provider_at" --third "$third_at" --third-key "$third" > "$tmp/out" 2> "$tmp/err"
[ "$(wc -l < "$tmp/out")" = 2 ] || complain "chat: $(cat "$tmp/out" "$tmp/err")"
grep -q "there was a littl" "$tmp/out" || complain "chat says: $(cat "$tmp/out")"
for p in "${parties[@]}"; do wait "$p" || complain "a party ended with $?: $(cat "$tmp/third.log" "$tmp/serve.log")"; done
parties=()

# the same with a pool: made, shown, used
name=$(printf '5%.0s' {1..32})
"${helper[@]}" --write "$tmp/pool" > "$tmp/write.log" 2>&1 & parties+=($!)
third_at=$(started write)
"${serve[@]}" --third "$third_at" --make-pool 24 --name "$name" --tape "$tmp/provider.tape" 2> "$tmp/err" & parties+=($!)
timeout 60 "${chat[@]}" --third "$third_at" --third-key "$third" --make-pool 24 --name "$name" --tape "$tmp/client.tape" ||
    complain "making a pool"
for p in "${parties[@]}"; do wait "$p" || complain "a party of the pool's making ended with $?"; done
parties=()
expect 0 "24" "$marill" pool show "$tmp/pool" --third-key "$third"
expect 0 "left             24" "$marill" pool show "$tmp/client.tape"
expect 0 "half             provider" "$marill" pool show "$tmp/pool" --third-key "$third" --tape "$tmp/provider.tape"
grep -q "left             24" "$tmp/out" || complain "the provider's half says: $(cat "$tmp/out")"
cp "$tmp/client.tape" "$tmp/copied.tape"
expect 0 "a copy" "$marill" pool show "$tmp/copied.tape"
grep -q "MB/s" "$tmp/write.log" || complain "the third does not say how fast it wrote: $(cat "$tmp/write.log")"
"${serve[@]}" --setting dealer --pool "$tmp/pool" --tape "$tmp/provider.tape" --listen 127.0.0.1:0 --once \
    > "$tmp/dealer.log" 2>&1 & parties+=($!)
provider_at=$(started dealer)
printf 'Once upon a time\n' |
    timeout 60 "${chat[@]}" --setting dealer --provider "$provider_at" --tape "$tmp/client.tape" > "$tmp/out" 2> "$tmp/err"
grep -q "there was a littl" "$tmp/out" || complain "chat from a pool: $(cat "$tmp/out" "$tmp/err")"
wait "${parties[0]}" || complain "the provider of the pool ended with $?"
parties=()
"$marill" pool show "$tmp/client.tape" | grep -q "left             24" && complain "the pool is not used"

if [ -f "$(dirname "$0")/../models/translate/marill-plan.json" ]; then
    expect 0 "The provider learned" "$marill" demo
    [ "$(grep -c '^> ' "$tmp/out")" = 3 ] || complain "the demo translates $(grep -c '^> ' "$tmp/out") sentences, not 3"
    "$marill" demo <&- > "$tmp/out" 2>&1 || complain "the demo without standard input"
    printf 'Ich habe Hunger.\n' | "$marill" demo > "$tmp/out" 2>&1 || complain "the demo from a pipe"
    [ "$(grep -c '^> ' "$tmp/out")" = 1 ] || complain "the demo from a pipe"
fi
compgen -G "$tmp/marill-*" > /dev/null && complain "left behind:" "$tmp"/marill-*
exit $bad
