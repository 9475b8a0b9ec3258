#!/bin/sh
# Installs the system packages that the build needs, on Debian and Ubuntu. Rust itself comes from rustup.
set -eu

# gcc links Rust programs; g++, cmake and make build the sentencepiece library, which only tests use. libvulkan1 and
# mesa-vulkan-drivers are a Vulkan loader and a software device, for the tests of the Vulkan backend.
missing=""
for package in gcc libc6-dev g++ cmake make libvulkan1 mesa-vulkan-drivers; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=""
[ "$(id -u)" -eq 0 ] || sudo="sudo"
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of words
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing
