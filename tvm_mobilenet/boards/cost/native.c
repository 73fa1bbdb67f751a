/* Code of the emulator's hooks, which runs for every block and must therefore be compiled.
 *
 * Unicorn calls count_block at the start of every translated block. A translated block ends at a branch, but also at a
 * page's end or at Unicorn's own size limit, so blocks themselves are not counted. The counts are exact all the same:
 * how often execution entered and left each instruction (the running sum of both is its number of executions), and
 * how often each branch was taken, which shows as a block that does not begin where the one before it ended.
 */
#include <stdint.h>

typedef struct Follow Follow;
static void follow_block(Follow *f, void *uc, uint64_t address, uint64_t end);

typedef struct {
    uint64_t base, end;               /* addresses of the code that is counted */
    uint64_t *entered, *left, *taken; /* one for each 4-byte instruction, and one more */
    uint64_t previous_end;
    uint64_t executed_bytes, budget_bytes;
    uint64_t low, high; /* touched indices, from and to */
    uint64_t exhausted;
    int (*stop)(void *);
    Follow *follow; /* set if memory is followed block by block */
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
    if (c->follow) follow_block(c->follow, uc, address, address + size);
}

/* ---- the pipeline simulation of pipeline.py: called with millions of instructions while tuning */

typedef struct {
    int32_t latency, forward, slots, accumulator, base; /* registers by number, -1: none */
    int32_t read, reads, write, writes, uop, uops;      /* first index and count */
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

/* taken: units x horizon bytes, a ring buffer over time; no cycle beyond the horizon is read twice. */
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

/* ends[i]: the cycle in which iteration i ends. ready, chained: one for each register, zero. */
void simulate(const Machine *m, int n, const Op *ops, const Uop *uops, const int32_t *regs, int iterations,
              int64_t *ready, int64_t *chained, int64_t *ends, uint8_t *taken, int64_t horizon, int64_t *retired) {
    if (m->in_order) in_order(m, n, ops, uops, regs, iterations, ready, chained, ends);
    else out_of_order(m, n, ops, uops, regs, iterations, ready, chained, ends, taken, horizon, retired);
}

/* ---- the caches of memory.py: set-associative, least recently used out first, allocated by reads and writes alike.
 *
 * Two hierarchies see each access: that of one core that runs all tasks, and that of many cores, where the current task
 * has its own private levels. A log keeps the requests that these pass to the shared levels. At the end of a parallel
 * region the log goes through the shared levels, with the tasks interleaved as if they had run side by side.
 *
 * A line's entry is its number << 1, plus one if it was written. The most recently used comes first. */

typedef struct {
    uint64_t sets, ways, *lines, fills, writebacks;
} Level;
typedef struct {
    Level one[3], many[3]; /* many: private ones of the current task, then the shared */
    uint64_t levels, shared; /* number of levels; the first shared one */
    uint64_t scratch, stride, slots; /* scratch memory: slots of stride bytes, which count as one for one core */
    uint64_t *log, logged, room;
} Memory;

static int look(Level *c, uint64_t line, uint64_t dirty, uint64_t *victim) {
    uint64_t *set = c->lines + line % c->sets * c->ways, i, last = c->ways - 1;
    for (i = 0; i < last && set[i] >> 1 != line; i++) {}
    uint64_t entry = set[i];
    int hit = entry >> 1 == line;
    *victim = !hit && entry != ~0ull && entry & 1 ? entry >> 1 : ~0ull;
    for (; i; i--) set[i] = set[i - 1];
    set[0] = line << 1 | dirty | (hit ? entry & 1 : 0);
    return hit;
}

/* Read or write a line at level k of a hierarchy; on a miss the request goes to the next level. */
static void reach(Memory *m, Level *at, uint64_t k, uint64_t end, uint64_t line, uint64_t dirty) {
    uint64_t victim;
    if (k == end) {
        if (end == m->levels) return;
        if (m->logged < m->room) m->log[m->logged++] = line << 1 | dirty;
        else reach(m, at, end, m->levels, line, dirty); /* with a full log: at once, not interleaved */
        return;
    }
    int hit = look(at + k, line, dirty, &victim);
    if (victim != ~0ull) {
        at[k].writebacks++;
        reach(m, at, k + 1, end, victim, 1);
    }
    /* a whole line that is written back from the level above needs no fill */
    if (!hit && !(dirty && k)) {
        at[k].fills++;
        reach(m, at, k + 1, end, line, 0);
    }
}

void touch(Memory *m, uint64_t address, uint64_t bytes, uint64_t written) {
    uint64_t line = address >> 6, last = (address + bytes - 1) >> 6, single = line;
    for (; line <= last; line++) {
        uint64_t *set = m->many[0].lines + line % m->many[0].sets * m->many[0].ways;
        if (set[0] >> 1 == line) set[0] |= written;
        else reach(m, m->many, 0, m->shared, line, written);
        single = line;
        if ((line << 6) - m->scratch < m->stride * m->slots)
            single = (m->scratch + ((line << 6) - m->scratch) % m->stride) >> 6;
        set = m->one[0].lines + single % m->one[0].sets * m->one[0].ways;
        if (set[0] >> 1 == single) set[0] |= written;
        else reach(m, m->one, 0, m->levels, single, written);
    }
}

void count_access(void *uc, int kind, uint64_t address, int size, int64_t value, void *user) {
    (void)uc, (void)value;
    touch(user, address, size, kind == 17 /* UC_MEM_WRITE */);
}

/* ---- the accesses of accesses.py: all of a block's at once, from the registers at its beginning
 *
 * Unicorn's own memory hooks take most of an emulation's time. A block's loads and stores are known beforehand as sums
 * of registers and constants, which Python finds once, when a block first executes. */

typedef struct {
    int32_t reg, extend; /* Unicorn's number; 1: its low half with sign, 2: without, 0: all of it */
} Slot;
typedef struct {
    int64_t offset;
    uint32_t term, terms, bytes, at; /* first term and count; bytes of memory; offset of the instruction from the first
    */
    uint64_t written;
} Access;
typedef struct {
    int64_t slot, factor;
} Term;
typedef struct {
    const Slot *slots;
    const Access *accesses;
    const Term *terms;
    uint64_t slot_count, access_count;
} Program;
struct Follow {
    uint64_t base;
    Program **programs; /* one for each instruction; zero: none yet */
    uint8_t *again;     /* instructions with a hook that reads the registers again */
    Memory *memory;     /* zero: memory is not followed now */
    int (*read)(void *, int, void *);
    void (*translate)(uint64_t);
    uint64_t block_end;
};

static void follow(Follow *f, void *uc, uint64_t address, uint64_t end) {
    Program *p = f->programs[(address - f->base) / 4];
    if (!p) {
        f->translate(address);
        p = f->programs[(address - f->base) / 4];
        if (!p) return; /* translate failed, which is reported after the emulation */
    }
    int64_t values[64];
    for (uint64_t i = 0; i < p->slot_count; i++) {
        int64_t v = 0;
        f->read(uc, p->slots[i].reg, &v);
        values[i] = p->slots[i].extend == 1 ? (int32_t)v : p->slots[i].extend ? (int64_t)(uint32_t)v : v;
    }
    for (const Access *a = p->accesses; a < p->accesses + p->access_count && address + a->at < end; a++) {
        int64_t where = a->offset;
        for (const Term *t = p->terms + a->term; t < p->terms + a->term + a->terms; t++)
            where += values[t->slot] * t->factor;
        touch(f->memory, where, a->bytes, a->written);
    }
}

static void follow_block(Follow *f, void *uc, uint64_t address, uint64_t end) {
    f->block_end = end;
    if (f->memory && !f->again[(address - f->base) / 4]) follow(f, uc, address, end);
}

void follow_again(void *uc, uint64_t address, uint32_t size, void *user) {
    (void)size;
    Follow *f = user;
    if (f->memory) follow(f, uc, address, f->block_end);
}

/* Put the logs of tasks that run side by side through the shared levels, always the least advanced task next. */
void share(Memory *m, const uint64_t *log, const uint64_t *starts, uint64_t *at, uint64_t tasks) {
    for (uint64_t t = 0; t < tasks; t++) at[t] = starts[t];
    for (;;) {
        uint64_t least = tasks;
        double how = 1;
        for (uint64_t t = 0; t < tasks; t++) {
            uint64_t all = starts[t + 1] - starts[t];
            double far = all ? (double)(at[t] - starts[t]) / all : 1;
            if (far < how) how = far, least = t;
        }
        if (least == tasks) return;
        uint64_t entry = log[at[least]++];
        reach(m, m->many, m->shared, m->levels, entry >> 1, entry & 1);
    }
}
