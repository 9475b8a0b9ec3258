#ifdef SUBGROUPS
#extension GL_KHR_shader_subgroup_shuffle : require
// Invocations in a subgroup, all of them active: a power of two, 64 at most.
layout(constant_id = 3) const uint SUBGROUP = 64;
// Which of the 64 this is. How the driver deals gl_LocalInvocationID out to subgroups it need not say.
uint invocation() {
    return gl_SubgroupID * SUBGROUP + gl_SubgroupInvocationID;
}
#else
uint invocation() {
    return gl_LocalInvocationID.x;
}
#endif
// Workgroups in a row, whatever the device's limit on one dimension: the host spreads them over x and y.
uint group_index() {
    return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
}
