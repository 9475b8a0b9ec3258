#!/bin/sh
# Compiles the shaders to SPIR-V with glslc (Debian: glslc), into the folder given, or beside them.
# Without optimization: the optimizer may reorder float operations, and drivers optimize anyway.
set -eu
cd "$(dirname "$0")"
out="${1:-spv}"
mkdir -p "$out"
glslc --version >"$out/VERSION"
for shader in *.comp; do
    glslc --target-env=vulkan1.1 -O0 -I include -o "$out/${shader%.comp}.spv" "$shader"
done
# Once more with the integer dot product, for devices that have it.
for shader in mul_mat_q*.comp mul_mat_t*.comp; do
    glslc --target-env=vulkan1.1 -O0 -I include -DINTEGER_DOT -o "$out/${shader%.comp}_dot.spv" "$shader"
done
