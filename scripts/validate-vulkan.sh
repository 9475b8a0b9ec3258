#!/usr/bin/env bash
# Runs every test of the Vulkan backend under the Khronos validation layer (Debian: vulkan-validationlayers), with its
# checks of synchronization. Fails where the layer says anything, or is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export FABRIC_REQUIRE_VULKAN=1 VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation
export VK_LAYER_ENABLES=VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT
VK_LOADER_DEBUG=layer cargo test -p fabric-tests -p fabric-tools --test 'vulkan*' -- --nocapture 2>&1 |
    tee "$log" | grep -v "^LAYER:"

if ! grep -q "Insert instance layer \"$VK_INSTANCE_LAYERS\"" "$log"; then
    echo "the validation layer is not installed" >&2
    exit 1
fi
# Each of its messages has a number.
if grep "msgNum: " "$log"; then
    exit 1
fi
echo "the validation layer says nothing"
