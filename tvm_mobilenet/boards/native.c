/* What runs inside the emulator's hooks: once a block, so it has to be compiled.
 *
 * Unicorn calls count_block at the start of every translated block. A translated block ends at a branch, but also at a
 * page's end or at Unicorn's own size limit, so blocks as such mean nothing. What is kept is exact all the same: how
 * often execution entered and left each instruction (their running sum is each instruction's executions) and how often
 * each branch was taken, seen as a block that does not begin where the one before it ended.
 */
#include <stdint.h>

typedef struct {
    uint64_t base, end;               /* addresses of the code that is counted */
    uint64_t *entered, *left, *taken; /* one a 4-byte instruction, and one more */
    uint64_t previous_end;
    uint64_t executed_bytes, budget_bytes;
    uint64_t low, high; /* touched indices, from and to */
    uint64_t exhausted;
    int (*stop)(void *);
} Counts;

void count_block(void *uc, uint64_t address, uint32_t size, void *user) {
    Counts *c = user;
    uint64_t previous = c->previous_end;
    c->previous_end = address + size;
    c->executed_bytes += size;
    if (c->executed_bytes > c->budget_bytes) {
        c->exhausted = 1;
        c->stop(uc);
        return;
    }
    if (previous != address && previous > c->base && previous <= c->end) c->taken[(previous - c->base) / 4 - 1]++;
    if (address < c->base || address + size > c->end) return;
    uint64_t first = (address - c->base) / 4, last = first + size / 4;
    c->entered[first]++;
    c->left[last]++;
    if (first < c->low) c->low = first;
    if (last > c->high) c->high = last;
}
