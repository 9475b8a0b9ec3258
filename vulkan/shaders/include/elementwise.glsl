// One invocation for each element of the box. F: an expression of the operands' elements av, bv, cv.
#include "tensors.glsl"
#include "float.glsl"

#if OPERANDS == 1
#define LOAD float av = a[a_row(row) + i * p.a_nb[0]];
#elif OPERANDS == 2
#define LOAD float av = a[a_row(row) + i * p.a_nb[0]], bv = b[b_row(row) + i * p.b_nb[0]];
#else
#define LOAD float av = a[a_row(row) + i * p.a_nb[0]], bv = b[b_row(row) + i * p.b_nb[0]], cv = c[c_row(row) + i];
#endif

#define ELEMENTWISE(F) \
    void main() { \
        uint item = group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x; \
        if (item >= p.len[0] * rows()) return; \
        uint i = p.start[0] + item % p.len[0]; \
        uvec3 row = row_of(item / p.len[0]); \
        LOAD \
        y[y_row(row) + i] = F; \
    }
