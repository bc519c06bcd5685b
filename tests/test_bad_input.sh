#!/usr/bin/env bash
# What goes wrong ends with one line that names it, a status other than 0, no party left running and no half-written file.
# usage: test_bad_input.sh BUILD_DIR
set -u
marill=$1/marill
data=$(cd "$(dirname "$0")/.." && pwd)/../shared/data
[ -x "$marill" ] || { echo "skipped (no $marill)"; exit 77; }
stories=$data/weights/stories260K
[ -d "$stories" ] || { echo "skipped (development data ../shared/data is absent)"; exit 77; }
tmp=$(mktemp -d)
export TMPDIR=$tmp/private
mkdir "$TMPDIR"
parties=()
trap 'for p in "${parties[@]}"; do kill -9 "$p" 2> /dev/null; done; rm -rf "$tmp"' EXIT
. "$(dirname "$0")/script.sh"

# one_line NAME PART: $tmp/err is one line and says PART (a regular expression)
one_line() {
    [ "$(wc -l < "$tmp/err")" = 1 ] || complain "$1: not one line: $(cat "$tmp/err")"
    grep -qE -- "$2" "$tmp/err" || complain "$1: does not say '$2': $(cat "$tmp/err")"
}
# refused NAME PART COMMAND...
refused() {
    local name=$1 part=$2 status
    shift 2
    timeout 30 "$@" > "$tmp/out" 2> "$tmp/err" < /dev/null
    status=$?
    case $status in 1 | 2) ;; *) complain "$name: ended with $status" ;; esac
    one_line "$name" "$part"
}
model_copy() { rm -rf "$tmp/$1"; mkdir "$tmp/$1"; cp "$stories"/{config.json,model.safetensors,tokenizer.model} "$tmp/$1"; }
run() { echo "$marill run --setting 3pc --max-tokens 4 --prompt Once --model"; }

model_copy good
head -c 20000 "$data/text/tinystories_sample_2MiB.txt" > "$tmp/text"
"$marill" calibrate --model "$tmp/good" --text "$tmp/text" --context 64 --frozen 2 > /dev/null || complain "calibrate"
good=$tmp/good

# files
refused "no model" "/none/config.json" $(run) /none
for file in model.safetensors tokenizer.model; do
    cp -r "$good" "$tmp/part"
    rm "$tmp/part/$file"
    refused "missing $file" "$file" $(run) "$tmp/part"
    head -c 3000 "$good/$file" > "$tmp/part/$file"
    refused "cut $file" "$file" $(run) "$tmp/part"
    rm -rf "$tmp/part"
done
cp -r "$good" "$tmp/large"
cp "$data/tokenizers/llama2/tokenizer.model" "$tmp/large/"
refused "a tokenizer that does not fit" "tokenizer.model has 32000" $(run) "$tmp/large"
cp -r "$good" "$tmp/other"
sed -i 's/"frozen": 2/"frozen": 1/' "$tmp/other/marill-plan.json"
refused "a damaged plan" "marill-plan.json|plan" $(run) "$tmp/other"
echo '{' > "$tmp/other/marill-plan.json"
refused "a plan that is no JSON" "marill-plan.json" $(run) "$tmp/other"

# prompts
refused "an empty prompt" "empty" "$marill" run --model "$good" --setting 3pc --prompt ""
refused "an empty file" "empty" "$marill" run --model "$good" --setting 3pc --prompt-file /dev/null
refused "no UTF-8" "UTF-8" "$marill" run --model "$good" --setting 3pc --prompt $'a\xff'
refused "a long prompt" "context" "$marill" run --model "$good" --setting 3pc --prompt-file "$tmp/text"
refused "a file that cannot be written" "/none/logits" \
    "$marill" run --model "$good" --setting plain --prompt a --max-tokens 2 --logits /none/logits
refused "a text that is not there" "/none" "$marill" calibrate --model "$good" --text /none --out "$tmp/never.json"
[ -e "$tmp/never.json" ] && complain "a plan without text"

# a deployment whose parties do not fit
for who in client provider third stranger; do "$marill" keygen "$tmp/$who" > "$tmp/$who.pub"; done
client=$(cat "$tmp/client.pub") provider=$(cat "$tmp/provider.pub") third=$(cat "$tmp/third.pub") stranger=$(cat "$tmp/stranger.pub")
refused "a key that is there" "client.key" "$marill" keygen "$tmp/client"
helper=("$marill" third --key "$tmp/third.key" --client "$client" --provider "$provider" --listen 127.0.0.1:0)
serve=("$marill" serve --model "$good" --key "$tmp/provider.key" --client "$client" --third-key "$third")
third_start() {                                 # an old log would say "listening on" until the new process has emptied it
    rm -f "$tmp/third.log"
    "${helper[@]}" > "$tmp/third.log" 2>&1 & parties+=($!)
    third_pid=$!
    third_at=$(started third)
}
serve_start() {
    rm -f "$tmp/serve.log"
    "${serve[@]}" --listen 127.0.0.1:0 "$@" > "$tmp/serve.log" 2>&1 & parties+=($!)
    serve_pid=$!
    provider_at=$(started serve)
}
chat() {                                        # KEY OPTIONS...
    local key=$1
    shift
    echo Once | timeout 30 "$marill" chat --model "$good" --key "$tmp/$key.key" --provider "$provider_at" \
        --third "$third_at" --third-key "$third" "$@" > "$tmp/out" 2> "$tmp/err"
}
third_start
serve_start --third "$third_at"
refused "a port in use" "${third_at#*:}" \
    "$marill" third --key "$tmp/third.key" --client "$client" --provider "$provider" --listen "$third_at"
chat stranger --provider-key "$provider" && complain "a stranger was served"
one_line "a key that the provider does not know" "provider"
chat client --provider-key "$stranger" && complain "a stranger was trusted"
one_line "another provider than pinned" "provider"
"$marill" calibrate --model "$good" --text "$tmp/text" --context 32 --frozen 2 --out "$tmp/other.json" > /dev/null
chat client --provider-key "$provider" --plan "$tmp/other.json" && complain "two plans met"
one_line "a plan that differs" "plan"
chat client --provider-key "$provider" --max-tokens 4 || complain "after those, an honest client: $(cat "$tmp/err" "$tmp/serve.log")"
chmod 644 "$tmp/stranger.key"
chat stranger --provider-key "$provider" && complain "a key that others may read"
one_line "a key that others may read" "stranger.key"

# a peer that vanishes from a deployment
for victim in third serve; do
    rm -f "$tmp/out"
    (yes Once | timeout 60 "$marill" chat --model "$good" --key "$tmp/client.key" --provider "$provider_at" --provider-key "$provider" \
        --third "$third_at" --third-key "$third" --max-tokens 40 > "$tmp/out" 2> "$tmp/err"; echo $? > "$tmp/status") & waiting=$!
    for i in $(seq 100); do [ -s "$tmp/out" ] && break; sleep 0.05; done
    if [ $victim = third ]; then kill -9 "$third_pid"; else kill -9 "$serve_pid"; fi
    from=$SECONDS
    wait $waiting
    [ $((SECONDS - from)) -le 10 ] || complain "the client noticed after $((SECONDS - from)) s that $victim is gone"
    [ "$(cat "$tmp/status")" = 1 ] || complain "chat ended with $(cat "$tmp/status") after $victim was killed"
    one_line "$victim vanished" "third|provider"
    [ $victim = third ] && kill -0 "$serve_pid" 2> /dev/null || [ $victim = serve ] || complain "the provider did not outlive a session"
    kill -9 "$serve_pid" "$third_pid" 2> /dev/null
    [ $victim = serve ] || { third_start; serve_start --third "$third_at"; }
done 2> /dev/null
parties=()

# pools: too short, used before, altered, another's tape; a third that is stopped while it writes
pool_make() {                                   # NAME POSITIONS
    local name
    name=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    "${helper[@]}" --write "$tmp/pool.$1" > "$tmp/pool.$1.log" 2>&1 & local a=$!
    third_at=$(started "pool.$1")
    "${serve[@]}" --third "$third_at" --make-pool "$2" --name "$name" --tape "$tmp/provider.$1" & local b=$!
    "$marill" chat --model "$good" --key "$tmp/client.key" --provider-key "$provider" --third "$third_at" --third-key "$third" \
        --make-pool "$2" --name "$name" --tape "$tmp/client.$1" || complain "the client's part of pool $1"
    wait $a || complain "pool $1: the third ended with $?"
    wait $b || complain "pool $1: the provider ended with $?"
}
chat_dealer() {                                 # TAPE TOKENS
    echo Once | timeout 30 "$marill" chat --model "$good" --key "$tmp/client.key" --provider "$provider_at" --provider-key "$provider" \
        --setting dealer --tape "$tmp/client.$1" --max-tokens "$2" > "$tmp/out" 2> "$tmp/err"
}
from_pool() {                                   # POOL TAPE TOKENS
    serve_start --setting dealer --pool "$tmp/pool.$1" --tape "$tmp/provider.$1" --once
    chat_dealer "$2" "$3"
}
pool_make one 8
pool_make two 8
from_pool one one 60 && complain "a pool gave more than it has"
one_line "an exhausted pool" "pool|tape|segment|position"
kill "$serve_pid" 2> /dev/null
from_pool one two 4 && complain "another pool's tape"
one_line "another pool's tape" "pool|tape"
kill "$serve_pid" 2> /dev/null
cp "$tmp/client.one" "$tmp/copy"
from_pool one one 4 || complain "a good pool: $(cat "$tmp/err" "$tmp/serve.log")"
wait "$serve_pid" 2> /dev/null
cp "$tmp/copy" "$tmp/client.one"
serve_start --setting dealer --pool "$tmp/pool.one" --tape "$tmp/provider.one" --once
if [ -n "$provider_at" ]; then
    chat_dealer one 4 && complain "a pool was used twice"
    one_line "a pool used twice" "pool|tape"
else
    grep -qE "pool|tape" "$tmp/serve.log" || complain "a pool used twice: $(cat "$tmp/serve.log")"
fi
kill "$serve_pid" 2> /dev/null
printf xyz | dd of="$tmp/pool.two" bs=1 seek=100000 conv=notrunc 2> /dev/null
from_pool two two 4 && complain "a pool with an altered segment"
one_line "a pool with an altered segment" "pool"
kill "$serve_pid" 2> /dev/null
printf xyz | dd of="$tmp/pool.two" bs=1 seek=40 conv=notrunc 2> /dev/null
refused "an altered pool" "pool" "$marill" pool show "$tmp/pool.two" --third-key "$third"
refused "a pool of another third" "pool" "$marill" pool show "$tmp/pool.one" --third-key "$stranger"
refused "a tape that is none" "text" "$marill" pool show "$tmp/text"
"${helper[@]}" --write "$tmp/never.pool" > "$tmp/never.log" 2>&1 & stopped=$!
started never > /dev/null
kill "$stopped"
wait "$stopped" 2> /dev/null
compgen -G "$tmp/never.pool*" > /dev/null && complain "half a pool is left"

# all on this machine: a party that vanishes, and signals
for victim in third serve; do
    rm -f "$tmp/out"
    "$marill" run --model "$good" --setting 3pc --prompt Once --max-tokens 60 > "$tmp/out" 2> "$tmp/err" & run_pid=$!
    for i in $(seq 200); do [ -s "$tmp/out" ] && break; sleep 0.02; done
    pkill -9 -P $run_pid -f "marill $victim"
    from=$SECONDS
    wait $run_pid
    status=$?
    [ $status = 1 ] || complain "run ended with $status after $victim was killed"
    [ $((SECONDS - from)) -le 8 ] || complain "run noticed after $((SECONDS - from)) s that $victim is gone"
    one_line "run without $victim" "signal 9"
done
for signal in INT TERM KILL; do
    rm -f "$tmp/out"
    "$marill" run --model "$good" --setting 3pc --prompt Once --max-tokens 60 > "$tmp/out" 2> "$tmp/err" & run_pid=$!
    for i in $(seq 200); do [ -s "$tmp/out" ] && break; sleep 0.02; done
    children=$(pgrep -P $run_pid | tr '\n' ' ')
    kill -$signal $run_pid
    wait $run_pid 2> /dev/null
    [ $? -gt 128 ] || complain "run ended well after SIG$signal"
    sleep 0.5
    for child in $children; do                                    # a zombie is init's to bury
        grep -q '^State:.[^ZX]' "/proc/$child/status" 2> /dev/null && complain "SIG$signal left a party running"
    done
    [ $signal = KILL ] && rm -rf "$TMPDIR"/marill-*                # nobody can clean up after that
done
compgen -G "$TMPDIR/marill-*" > /dev/null && complain "left behind:" "$TMPDIR"/*
exit $bad
