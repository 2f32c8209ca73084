#!/bin/sh
# Runs the tests of the kernels crate under AddressSanitizer on every table of this machine, and its scalar table under
# valgrind where that is installed: what stands in for Miri, which knows few of the SIMD intrinsics.
#   tools/check-unsafe.sh [FILTER]
# AddressSanitizer is an unstable option of rustc; RUSTC_BOOTSTRAP=1 lets the pinned compiler take it. Builds in a folder of
# its own, target/sanitized (minutes). FILTER names the tests, as `cargo test FILTER` does.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$here"
# A target that is named keeps the sanitizer out of build scripts and procedural macros.
host=$(rustc -vV | sed -n 's/^host: //p')
echo "AddressSanitizer, every table"
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cdebug-assertions=yes" CARGO_TARGET_DIR=target/sanitized \
    cargo test --release --locked --target "$host" -p reweight-kernels --test kernels -- "$@"
if command -v valgrind > /dev/null; then
    echo "valgrind, scalar table"
    test=$(cargo test --release --locked -p reweight-kernels --test kernels --no-run --message-format=json |
        python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("target", {}).get("name") == "kernels" and message.get("executable"):
        print(message["executable"])')
    # Valgrind knows no AVX-512, so it hides that from the program; short tests, as it takes fifty times the time.
    valgrind --quiet --error-exitcode=1 "$test" what_needs_no_choice short_rows special_values
fi
