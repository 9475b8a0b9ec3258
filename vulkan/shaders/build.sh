#!/bin/sh
# Compiles the shaders to SPIR-V with glslc (Debian: glslc), into the folder given, or beside them.
# Without optimization: the optimizer may reorder float operations, and drivers optimize anyway.
set -eu
cd "$(dirname "$0")"
out="${1:-spv}"
mkdir -p "$out"
glslc --version >"$out/VERSION"
compile() { # shader, suffix, Vulkan's version, definitions
    shader="$1" name="${1%.comp}$2" version="$3"
    shift 3
    glslc --target-env="vulkan$version" -O0 -I include "$@" -o "$out/$name.spv" "$shader"
}
for shader in *.comp; do
    case "$shader" in
    *_coopmat.comp) ;;
    *) compile "$shader" "" 1.1 ;;
    esac
done
# Once more with the integer dot product, for devices that have it.
for shader in mul_mat_q*.comp mul_mat_ternary.comp mul_mat_ternary_scaled.comp; do
    compile "$shader" _dot 1.1 -DINTEGER_DOT
done
# Those that add up lanes once more with shuffles. Of Vulkan 1.3, whose SPIR-V (1.6) promises full subgroups.
for shader in act_i8.comp act_q*.comp cross_entropy_loss.comp exact.comp flash_attn_back_weights.comp \
    flash_attn_values.comp mul_mat_float.comp mul_mat_q?_k.comp mul_mat_ternary.comp rms_norm*.comp soft_max*.comp; do
    compile "$shader" _subgroup 1.3 -DSUBGROUPS
done
for shader in mul_mat_q?_k.comp mul_mat_ternary.comp; do
    compile "$shader" _dot_subgroup 1.3 -DINTEGER_DOT -DSUBGROUPS
done
# Cooperative matrices are for a newer glslc (Debian 13's), which has to be named: GLSLC_COOPMAT=glslc shaders/build.sh. Without
# one the compiled shaders stay as they are, if they were made of these sources.
sources="$(cd include && cat ../*_coopmat.comp bytes.glsl coopmat.glsl group.glsl mul_mat_operands.glsl out_prod_ternary.glsl \
    ternary.glsl | cksum)"
if [ -n "${GLSLC_COOPMAT:-}" ]; then
    for shader in *_coopmat.comp; do
        $GLSLC_COOPMAT --target-env=vulkan1.3 -O0 -I include -o "$out/${shader%.comp}.spv" "$shader"
    done
    { $GLSLC_COOPMAT --version && echo "sources $sources"; } >"$out/VERSION_COOPMAT"
elif ! grep -qx "sources $sources" spv/VERSION_COOPMAT; then
    echo "shaders with cooperative matrices, or what they include, were changed: name a glslc that knows" \
        "GL_KHR_cooperative_matrix in GLSLC_COOPMAT" >&2
    exit 1
elif ! [ "$out" -ef spv ]; then
    cp spv/*_coopmat.spv spv/VERSION_COOPMAT "$out"
fi
