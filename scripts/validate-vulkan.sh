#!/usr/bin/env bash
# Runs every test of the Vulkan backend under the Khronos validation layer, with its checks of synchronization. Fails where the
# layer says anything, or is not there. `--install` installs it first (Debian and Ubuntu: the package vulkan-validationlayers),
# which building and the other tests do not need. Further arguments are for `cargo test`; left out: all tests of the backend.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --install ]; then
    shift
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo="sudo"
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends vulkan-validationlayers
fi
[ $# -gt 0 ] || set -- -p fabric-tests -p fabric-tools --test 'vulkan*'

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export FABRIC_REQUIRE_VULKAN=1 VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation
export VK_LAYER_ENABLES=VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT
VK_LOADER_DEBUG=layer cargo test "$@" -- --nocapture 2>&1 |
    tee "$log" | grep -v "^LAYER:"

if ! grep -q "Insert instance layer \"$VK_INSTANCE_LAYERS\"" "$log"; then
    echo "the validation layer is not installed; scripts/validate-vulkan.sh --install does it on Debian and Ubuntu" >&2
    exit 1
fi
# Each of its messages has a number. Newer layers also say that they know newer settings.
if grep -E "msgNum: |\| MessageID = " "$log" | grep -v VALIDATION-SETTINGS; then
    exit 1
fi
echo "the validation layer says nothing"
