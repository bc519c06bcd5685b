#!/bin/bash
# The portable kernels on another architecture: base, num and their tests, cross-compiled for aarch64 and run under qemu-user.
# Skipped where the compiler or qemu is missing (apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user).
set -e
cd "$(dirname "$0")/.."
cc=$(command -v aarch64-linux-gnu-gcc) || { echo "skipped (aarch64-linux-gnu-gcc is missing)"; exit 77; }
qemu=$(command -v qemu-aarch64) || qemu=$(command -v qemu-aarch64-static) || { echo "skipped (qemu-aarch64 is missing)"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
warnings="-Wall -Wextra -Wconversion -Werror"
"$cc" -std=gnu17 -O2 -static $warnings -D_GNU_SOURCE -DSOURCE_DIR="\"$PWD\"" -DBUILD_DIR="\"$dir\"" -Isrc -Itests \
    src/base/*.c src/num/*.c tests/test_num.c -o "$dir/test_num" -lpthread -lm
"$qemu" "$dir/test_num"
