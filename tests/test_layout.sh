#!/usr/bin/env bash
# The floors: includes point down only, one public header each of at most 250 lines, a third-party header in one .c file.
set -u
cd "$(dirname "$0")/.."
bad=0
complain() { echo "$*"; bad=1; }
floors="base num crypto mpc model tune serve app"
rank() { local i=0 f; for f in $floors; do [ "$f" = "$1" ] && { echo $i; return; }; i=$((i + 1)); done; echo 99; }
allowed() {                                     # num and crypto both stand on base alone; serving needs no training, nor training secure computation
    case "$1:$2" in num:crypto | crypto:num | serve:tune | tune:crypto | tune:mpc) return 1 ;; esac
    [ "$(rank "$2")" -le "$(rank "$1")" ]
}
checked=0
for file in src/*/*.[ch]; do
    floor=$(basename "$(dirname "$file")")
    while read -r target; do
        checked=$((checked + 1))
        allowed "$floor" "$target" || complain "$file includes the floor above: $target"
    done < <(sed -n 's/^#include "\([a-z]*\)\/.*/\1/p' "$file")
    grep -nE '^#include "[^/"]*"' "$file" && complain "$file includes a header without its floor"
    lines=$(wc -l < "$file")
    [ "$lines" -le 760 ] || complain "$file has $lines lines"
done
[ "$checked" -gt 50 ] || complain "only $checked includes were found: this test looks in the wrong place"
for floor in $floors; do
    header=src/$floor/$floor.h
    [ -f "$header" ] || { complain "$header is missing"; continue; }
    [ "$(wc -l < "$header")" -le 250 ] || complain "$header is longer than 250 lines"
done
# A header that belongs to no standard is named once, in a .c file.
standard='assert|stdatomic|complex|ctype|errno|fcntl|float|inttypes|limits|math|signal|stdarg|stdbool|stddef|stdint|stdio|stdlib|string|strings|time|unistd|getopt|dirent|poll|pthread|sched|termios|netdb|libgen|immintrin|cpuid|wmmintrin|spawn|(sys|arpa|netinet|linux)/[a-z_]+'
while read -r header; do
    users=$(grep -lE "^ *# *include <$header>" src/*/*.[ch])
    [ "$(echo "$users" | wc -l)" -eq 1 ] || complain "<$header> is included by more than one file:" $users
    case "$users" in *.h) complain "<$header> is included by a header: $users" ;; esac
done < <(grep -hoE '^ *# *include <[^>]+>' src/*/*.[ch] | sed 's/.*<//; s/>//' | sort -u | grep -vE "^($standard)\.h$")
# The plain half of the network knows nothing of secret sharing; floors below serve/ never print.
for file in src/model/*.[ch]; do
    case "$(basename "$file")" in secure* | plan* | calibrate*) continue ;; esac
    grep -nE '^#include "(crypto|mpc)/' "$file" && complain "$file belongs to the plain half"
done
grep -nE '\b(printf|puts|putchar|vprintf) *\(|fprintf *\( *std' src/{base,num,crypto,mpc,model,tune}/*.c | grep -v 'src/base/result.c' && complain "a floor below serve/ prints"
exit $bad
