// A workgroup for each row, which it sums in 64 lanes: invocation i is lane i.
#include "tensors.glsl"
#include "float.glsl"
#include "lanes.glsl"
