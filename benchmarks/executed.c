/* A plugin of qemu-user (7.2) that counts the execution and traffic of each thread of a process between two marks.
 *
 * Counts are the virtual board's: executions of every translated block and how often the branch at its end was taken,
 * seen as a block that does not begin where the one before it ended. Caches are the virtual board's own, from native.c:
 * L1 of each thread, L2 of all.
 *
 * The time of threads is their number of executed instructions. None gets further ahead of the slowest than WINDOW,
 * independent of this machine's scheduler. A thread that sleeps in a system call is not waited for, and continues at
 * the time of the running ones.
 *
 * The process marks by getpgid(MARK + k): 1 begins, 2 begins another pass, 3 ends. A pass is cut into slices of equal
 * time; counts and traffic of a slice are written when its thread leaves it, those of both passes under one number.
 *
 *   b VA N WORD...                                            a block
 *   s THREAD SLICE L1FILLS L1WRITEBACKS L2FILLS L2WRITEBACKS  a slice; its blocks follow
 *   e VA N COUNT TAKEN                                        a block's executions in it
 *   t THREADS GAVE_UP                                         at the end */
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tvm_mobilenet/boards/cost/native.c"

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef void (*block_call)(unsigned, void *);
typedef void (*access_call)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *);
size_t qemu_plugin_tb_n_insns(const void *);
uint64_t qemu_plugin_tb_vaddr(const void *);
void *qemu_plugin_tb_get_insn(const void *, size_t);
const void *qemu_plugin_insn_data(const void *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *));
void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned));
void qemu_plugin_register_vcpu_exit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned));
void qemu_plugin_register_vcpu_tb_exec_cb(void *, block_call, int flags, void *);
void qemu_plugin_register_vcpu_mem_cb(void *, access_call, int flags, int rw, void *);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t,
                                          void (*)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                   uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_vcpu_syscall_ret_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned, int64_t, int64_t));
unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { THREADS = 16, TABLE = 1 << 18, LONGEST = 1024, WINDOW = 4096, PATIENCE = 20000, GETPGID = 155, LOGGED = 64 };
static const uint64_t MARK = 0x7e570000;

typedef struct Block {
    uint64_t address, count[THREADS], taken[THREADS];
    uint32_t n, *words;
    int known;
    struct Block *next;
} Block;
typedef struct {
    Block *last, **touched;
    size_t touches, room;
    volatile uint64_t clock; /* executed instructions, and the time that it slept */
    volatile int running;
    uint64_t checked, slice, l2_fills, l2_writebacks, log[LOGGED];
    Memory caches; /* many[0] is its L1 */
} Thread;

static Block *blocks[TABLE];
static Thread threads[THREADS];
static unsigned count;
static pthread_mutex_t translating = PTHREAD_MUTEX_INITIALIZER, below = PTHREAD_MUTEX_INITIALIZER,
                       writing = PTHREAD_MUTEX_INITIALIZER;
static Memory l2;
static uint64_t l1_bytes, l1_ways, slice_length = 1 << 20, origin, gave_up;
static volatile int counting;
static FILE *out;
static pid_t process;

static void stop(const char *why) {
    fprintf(stderr, "executed: %s\n", why);
    _exit(9);
}

static Level level(uint64_t bytes, uint64_t ways) {
    Level l = {bytes / 64 / ways, ways, malloc(bytes / 8), 0, 0};
    memset(l.lines, 0xff, bytes / 8);
    return l;
}

/* ---- the time of threads */

/* That of the slowest that runs; of all others the latest where none does. */
static uint64_t now(const Thread *but) {
    uint64_t least = ~0ull, most = 0;
    for (unsigned i = 0; i < count; i++) {
        if (&threads[i] == but) continue;
        if (threads[i].running && threads[i].clock < least) least = threads[i].clock;
        if (threads[i].clock > most) most = threads[i].clock;
    }
    return least == ~0ull ? most : least;
}

static void wake(Thread *t) {
    uint64_t others = now(t);
    if (others > t->clock) t->clock = others;
    t->running = 1;
}

static void wait_for_others(Thread *t) {
    for (int i = 0; i < PATIENCE; i++) {
        uint64_t least = ~0ull;
        for (unsigned k = 0; k < count; k++)
            if (threads[k].running && threads[k].clock < least) least = threads[k].clock;
        if (t->clock <= least + WINDOW) return;
        sched_yield();
    }
    gave_up++; /* one that stands still outside of system calls, as while the emulator works alone */
}

/* ---- slices */

static void write_slice(Thread *t) {
    Level *l1 = &t->caches.many[0];
    unsigned v = t - threads;
    pthread_mutex_lock(&writing);
    fprintf(out, "s %u %lu %lu %lu %lu %lu\n", v, t->slice, l1->fills, l1->writebacks, t->l2_fills, t->l2_writebacks);
    for (size_t i = 0; i < t->touches; i++) {
        Block *b = t->touched[i];
        if (!b->known) {
            b->known = 1;
            fprintf(out, "b %lx %u", b->address, b->n);
            for (uint32_t k = 0; k < b->n; k++) fprintf(out, " %08x", b->words[k]);
            fputc('\n', out);
        }
        fprintf(out, "e %lx %u %lu %lu\n", b->address, b->n, b->count[v], b->taken[v]);
        b->count[v] = b->taken[v] = 0;
    }
    pthread_mutex_unlock(&writing);
    t->touches = l1->fills = l1->writebacks = t->l2_fills = t->l2_writebacks = 0;
}

static void on_block(unsigned v, void *user) {
    Thread *t = &threads[v];
    Block *b = user;
    if (counting) {
        uint64_t slice = t->clock > origin ? (t->clock - origin) / slice_length : 0;
        if (t->last && t->last->address + 4 * t->last->n != b->address) t->last->taken[v]++;
        if (slice != t->slice) write_slice(t), t->slice = slice;
        if (!b->count[v]++) {
            if (t->touches == t->room) t->touched = realloc(t->touched, (t->room = 2 * t->room + 64) * sizeof *t->touched);
            t->touched[t->touches++] = b;
        }
        t->last = b;
    }
    t->clock += b->n;
    if (t->clock - t->checked > WINDOW / 4) {
        t->checked = t->clock;
        if (count > 1) wait_for_others(t);
    }
}

/* ---- caches */

static void on_access(unsigned v, qemu_plugin_meminfo_t info, uint64_t address, void *user) {
    (void)user;
    Thread *t = &threads[v];
    Level *l1 = &t->caches.many[0];
    uint64_t dirty = qemu_plugin_mem_is_store(info), bytes = 1ull << qemu_plugin_mem_size_shift(info);
    for (uint64_t line = address >> 6; line <= (address + bytes - 1) >> 6; line++) {
        uint64_t *set = l1->lines + line % l1->sets * l1->ways;
        if (set[0] >> 1 == line) {
            set[0] |= dirty;
            continue;
        }
        t->caches.logged = 0;
        reach(&t->caches, t->caches.many, 0, 1, line, dirty);
        if (!t->caches.logged) continue;
        pthread_mutex_lock(&below);
        Level *shared = &l2.many[1];
        uint64_t fills = shared->fills, writebacks = shared->writebacks;
        for (uint64_t i = 0; i < t->caches.logged; i++) reach(&l2, l2.many, 1, 2, t->log[i] >> 1, t->log[i] & 1);
        t->l2_fills += shared->fills - fills;
        t->l2_writebacks += shared->writebacks - writebacks;
        pthread_mutex_unlock(&below);
    }
}

/* ---- what qemu calls */

static void on_translation(qemu_plugin_id_t id, void *tb) {
    (void)id;
    uint64_t address = qemu_plugin_tb_vaddr(tb);
    uint32_t n = qemu_plugin_tb_n_insns(tb), words[LONGEST];
    if (n > LONGEST) stop("a block is too long");
    for (uint32_t i = 0; i < n; i++) memcpy(words + i, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), 4);
    pthread_mutex_lock(&translating);
    Block **at = &blocks[(address >> 2) % TABLE];
    while (*at && !((*at)->address == address && (*at)->n == n && !memcmp((*at)->words, words, 4 * n))) at = &(*at)->next;
    Block *b = *at;
    if (!b) {
        b = *at = calloc(1, sizeof *b);
        b->address = address, b->n = n, b->words = malloc(4 * n);
        memcpy(b->words, words, 4 * n);
    }
    pthread_mutex_unlock(&translating);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, 0, b);
    for (uint32_t i = 0; i < n; i++) qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_access, 0, 3, 0);
}

static void on_start(qemu_plugin_id_t id, unsigned v) {
    (void)id;
    if (v >= THREADS) stop("too many threads");
    Thread *t = &threads[v];
    if (!t->caches.many[0].lines) {
        t->caches.many[0] = level(l1_bytes, l1_ways);
        t->caches.levels = 2, t->caches.log = t->log, t->caches.room = LOGGED;
    }
    t->last = 0;
    if (v >= count) count = v + 1;
    wake(t);
}

static void on_exit_of(qemu_plugin_id_t id, unsigned v) {
    (void)id;
    threads[v].running = 0;
}

static void on_call(qemu_plugin_id_t id, unsigned v, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                    uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number == GETPGID && a > MARK && a <= MARK + 3) {
        if (a == MARK + 1)
            for (unsigned i = 0; i < count; i++) {
                Thread *t = &threads[i];
                t->last = 0, t->slice = 0, t->l2_fills = t->l2_writebacks = 0;
                t->caches.many[0].fills = t->caches.many[0].writebacks = 0;
            }
        origin = threads[v].clock;
        counting = a != MARK + 3;
        for (unsigned i = 0; i < count && !counting; i++)
            if (threads[i].touches) write_slice(&threads[i]);
    }
    threads[v].running = 0;
}

static void on_return(qemu_plugin_id_t id, unsigned v, int64_t number, int64_t result) {
    (void)id, (void)number, (void)result;
    wake(&threads[v]);
}

static void on_end(qemu_plugin_id_t id, void *user) {
    (void)id, (void)user;
    if (getpid() != process) return;
    fprintf(out, "t %u %lu\n", count, gave_up);
    fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc,
                                                               char **argv) {
    (void)info;
    uint64_t bytes = 0, ways = 0;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) out = fopen(argv[i] + 4, "w");
        else if (!strncmp(argv[i], "slice=", 6)) slice_length = strtoull(argv[i] + 6, 0, 10);
        else if (sscanf(argv[i], "l1=%lu:%lu", &l1_bytes, &l1_ways) == 2) continue;
        else if (sscanf(argv[i], "l2=%lu:%lu", &bytes, &ways) != 2) stop(argv[i]);
    }
    if (!out || !l1_ways || !ways || !slice_length) stop("out=FILE,l1=BYTES:WAYS,l2=BYTES:WAYS are needed");
    l2.many[1] = level(bytes, ways);
    l2.levels = 2;
    process = getpid();
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_init_cb(id, on_start);
    qemu_plugin_register_vcpu_exit_cb(id, on_exit_of);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    qemu_plugin_register_vcpu_syscall_ret_cb(id, on_return);
    qemu_plugin_register_atexit_cb(id, on_end, 0);
    return 0;
}
