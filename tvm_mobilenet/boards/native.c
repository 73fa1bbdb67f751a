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

/* ---- the pipeline simulation of pipeline.py: called with millions of instructions while tuning */

typedef struct {
    int32_t latency, forward, slots, accumulator, base; /* registers by number, -1: none */
    int32_t read, reads, write, writes, uop, uops;      /* first index and how many */
} Op;
typedef struct {
    uint32_t units; /* one bit each */
    int32_t busy;
} Uop;
typedef struct {
    int32_t in_order, decode, dispatch, window, units;
} Machine;

static inline int64_t later(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t sources(const Op *o, const int32_t *reads, const int64_t *ready, const int64_t *chained, int64_t at) {
    for (int i = 0; i < o->reads; i++) at = later(at, ready[reads[o->read + i]]);
    return o->accumulator >= 0 ? later(at, chained[o->accumulator]) : at;
}

static void results(const Op *o, const int32_t *writes, int64_t *ready, int64_t *chained, int64_t at) {
    for (int i = 0; i < o->writes; i++) {
        ready[writes[o->write + i]] = at + o->latency;
        chained[writes[o->write + i]] = at + (o->accumulator >= 0 ? o->forward : o->latency);
    }
}

static void in_order(const Machine *m, int n, const Op *ops, const Uop *uops, const int32_t *regs, int iterations,
                     int64_t *ready, int64_t *chained, int64_t *ends) {
    int64_t free_at[32] = {0}, cycle = 0;
    int issued = 0;
    for (int k = 0; k < iterations; k++) {
        for (const Op *o = ops; o < ops + n; o++) {
            int chosen[16], count = o->uops < 16 ? o->uops : 16;
            uint32_t mine = 0;
            int64_t at = sources(o, regs, ready, chained, issued < m->decode ? cycle : cycle + 1);
            for (int j = 0; j < count; j++) {
                int best = -1;
                for (int u = 0; u < m->units; u++)
                    if (uops[o->uop + j].units >> u & 1 && !(mine >> u & 1) && (best < 0 || free_at[u] < free_at[best]))
                        best = u;
                if (best < 0) best = 0;
                mine |= 1u << best;
                chosen[j] = best;
                at = later(at, free_at[best]);
            }
            for (int j = 0; j < count; j++) free_at[chosen[j]] = at + uops[o->uop + j].busy;
            if (at > cycle) cycle = at, issued = 0;
            issued++;
            results(o, regs, ready, chained, at);
            if (o->base >= 0) ready[o->base] = at + 1;
        }
        ends[k] = cycle + 1;
    }
}

/* taken: units x horizon bytes, a ring over time; beyond the horizon nothing is ever looked at twice. */
static void out_of_order(const Machine *m, int n, const Op *ops, const Uop *uops, const int32_t *regs, int iterations,
                         int64_t *ready, int64_t *chained, int64_t *ends, uint8_t *taken, int64_t horizon,
                         int64_t *retired) {
    int64_t cycle = 0, last = 0, used[32] = {0}, count = 0, cleared = 0;
    int decoded = 0, dispatched = 0;
    for (int k = 0; k < iterations; k++) {
        for (const Op *o = ops; o < ops + n; o++, count++) {
            if (decoded >= m->decode || dispatched >= m->dispatch)
                cycle++, decoded = 0, dispatched = dispatched > m->dispatch ? dispatched - m->dispatch : 0;
            if (count >= m->window && retired[count % m->window] > cycle)
                cycle = retired[count % m->window], decoded = 0, dispatched = 0;
            for (; cleared < cycle; cleared++)
                for (int u = 0; u < m->units; u++) taken[u * horizon + cleared % horizon] = 0;
            decoded++;
            dispatched += o->slots;
            int64_t at = sources(o, regs, ready, chained, cycle), start = at;
            for (int j = 0; j < o->uops; j++) {
                int64_t best = -1;
                int unit = 0, busy = uops[o->uop + j].busy;
                for (int u = 0; u < m->units; u++) {
                    if (!(uops[o->uop + j].units >> u & 1)) continue;
                    int64_t t = at;
                    for (int b = 0; b < busy; b++)
                        if (taken[u * horizon + (t + b) % horizon] && t - cycle < horizon / 2) t += b + 1, b = -1;
                    if (best < 0 || t < best || (t == best && used[u] < used[unit])) best = t, unit = u;
                }
                for (int b = 0; b < busy; b++) taken[unit * horizon + (best + b) % horizon] = 1;
                used[unit] += busy;
                start = later(start, best);
            }
            results(o, regs, ready, chained, start);
            if (o->base >= 0) ready[o->base] = later(cycle, ready[o->base]) + 1;
            last = later(last, start + o->latency);
            retired[count % m->window] = last;
        }
        ends[k] = last;
    }
}

/* ends[i]: the cycle in which iteration i is over. ready, chained: one a register, zero. */
void simulate(const Machine *m, int n, const Op *ops, const Uop *uops, const int32_t *regs, int iterations,
              int64_t *ready, int64_t *chained, int64_t *ends, uint8_t *taken, int64_t horizon, int64_t *retired) {
    if (m->in_order) in_order(m, n, ops, uops, regs, iterations, ready, chained, ends);
    else out_of_order(m, n, ops, uops, regs, iterations, ready, chained, ends, taken, horizon, retired);
}
