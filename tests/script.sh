# script.sh - what the shell tests share; sourced, with $tmp set. A complaint fails the script: it ends with exit $bad.
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
# started NAME: waits for "listening on" and gives the address
started() {
    local i
    for i in $(seq 600); do
        grep -q "listening on" "$tmp/$1.log" 2> /dev/null && break
        kill -0 $! 2> /dev/null || break        # the last one started, which is the one meant
        sleep 0.05
    done
    sed -n 's/listening on //p' "$tmp/$1.log"
}
