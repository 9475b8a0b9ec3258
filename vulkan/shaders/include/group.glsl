// Workgroups in a row, whatever the device's limit on one dimension: the host spreads them over x and y.
uint group_index() {
    return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
}
