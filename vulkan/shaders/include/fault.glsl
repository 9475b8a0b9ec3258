// The first lookup of a run that is out of range: 1 + the number of its step, then the index.
void report(uint step, int index) {
    if (atomicCompSwap(fault[0], 0u, step + 1u) == 0u) fault[1] = uint(index);
}
