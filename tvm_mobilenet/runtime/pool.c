/* Threads of one instance, and the functions that TVM's kernels call.
 *
 * A launch hands one function to all threads and waits for them. Between layers a thread spins for a short while,
 * since the next launch comes within microseconds; then it sleeps. Kernels have no pointer to an instance: they call
 * through global pointers, so a thread-local variable names the instance of their threads and scratch memory.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#if defined(__arm__)
/* Unwind tables of the kernels refer to it; nothing unwinds through them. */
void __aeabi_unwind_cpp_pr0(void);
void __aeabi_unwind_cpp_pr0(void) {}
#endif

__thread mn_worker *mn_current;

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

int64_t mn_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void run_tasks(mn_worker *w, mn_task task, void *data, int tasks, int step) {
    struct {
        void *sync;
        int32_t tasks;
    } environment = {NULL, tasks};
    w->in_task = 1;
    for (int i = w->slot; i < tasks; i += step)
        if (task(i, &environment, data)) atomic_store(&w->pool->failed, 1);
    w->in_task = 0;
}

static void *work(void *argument) {
    mn_worker *w = argument;
    mn_pool *p = w->pool;
    unsigned seen = 0;
    mn_current = w;
    mn_floats_begin(); /* the thread that started this one may have set something else */
    for (;;) {
        int fresh = 0;
        for (int64_t end = p->spin_nanoseconds ? mn_now() + p->spin_nanoseconds : 0; end;) {
            for (int i = 0; i < 64 && !fresh; i++) {
                fresh = atomic_load_explicit(&p->generation, memory_order_acquire) != seen;
                if (!fresh) relax();
            }
            if (fresh || mn_now() > end) break;
        }
        if (!fresh) {
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->sleeping, 1);
            while (atomic_load(&p->generation) == seen) pthread_cond_wait(&p->wake, &p->lock);
            atomic_fetch_sub(&p->sleeping, 1);
            pthread_mutex_unlock(&p->lock);
        }
        seen++;
        if (atomic_load(&p->stop)) return NULL;
        run_tasks(w, p->task, p->data, p->tasks, p->threads);
        if (atomic_fetch_sub(&p->remaining, 1) == 1 && atomic_load(&p->waiting)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static void announce(mn_pool *p) {
    atomic_fetch_add(&p->generation, 1);
    if (!atomic_load(&p->sleeping)) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static int launch(mn_task task, void *data, int tasks) {
    mn_worker *w = mn_current;
    mn_pool *p = w->pool;
    if (w->in_task || p->threads == 1) { /* a region within a task is not split again */
        struct {
            void *sync;
            int32_t tasks;
        } environment = {NULL, tasks > 1 ? tasks : 1};
        int before = w->in_task, failed = 0;
        w->in_task = 1;
        for (int i = 0; i < environment.tasks; i++) failed |= task(i, &environment, data) != 0;
        w->in_task = before;
        return failed ? -1 : 0;
    }
    p->task = task;
    p->data = data;
    p->tasks = tasks > 0 ? tasks : p->threads;
    atomic_store(&p->failed, 0);
    atomic_store(&p->remaining, p->threads - 1);
    announce(p);
    run_tasks(w, task, data, p->tasks, p->threads);
    int64_t end = p->spin_nanoseconds ? mn_now() + p->spin_nanoseconds : 0;
    for (unsigned i = 1; atomic_load_explicit(&p->remaining, memory_order_acquire); i++) {
        if (end && (i % 64 || mn_now() <= end)) {
            relax();
            continue;
        }
        pthread_mutex_lock(&p->lock);
        /* Not a store: before the load of `remaining` it needs a full barrier. The STLR of a store has none after it,
         * and emulators on x86 let the LDAR overtake it: the last worker then sees no waiting thread. */
        atomic_exchange(&p->waiting, 1);
        while (atomic_load(&p->remaining)) pthread_cond_wait(&p->done, &p->lock);
        atomic_store(&p->waiting, 0);
        pthread_mutex_unlock(&p->lock);
    }
    return atomic_load(&p->failed) ? -1 : 0;
}

int mn_pool_share(mn_pool *p, mn_task task, void *data, int tasks) {
    mn_worker *before = mn_current;
    mn_current = p->workers;
    int code = launch(task, data, tasks);
    mn_current = before;
    return code;
}

static void *take(int device_type, int device, uint64_t n, int code, int bits) {
    (void)device_type, (void)device, (void)code, (void)bits;
    mn_worker *w = mn_current;
    size_t have = w->pool->scratch_bytes;
    if (n > have) return NULL;
    size_t bytes = ((size_t)n + MN_ALIGNMENT - 1) & ~(size_t)(MN_ALIGNMENT - 1);
    if (w->live == MN_MOST_TAKEN || bytes > have - w->used) return NULL;
    w->taken[w->live].at = w->pool->scratch + have * (size_t)w->slot + w->used;
    w->taken[w->live].before = w->used;
    w->used += bytes;
    return w->taken[w->live++].at;
}

static int give_back(int device_type, int device, void *at) {
    (void)device_type, (void)device;
    mn_worker *w = mn_current;
    for (int i = 0; i < w->live; i++)
        if (w->taken[i].at == at) w->taken[i].at = NULL;
    while (w->live && !w->taken[w->live - 1].at) w->used = w->taken[--w->live].before;
    return 0;
}

/* The kernels' object has these as weak variables, for TVM's loader to fill in. */
void *__TVMBackendParallelLaunch = (void *)launch;
void *__TVMBackendAllocWorkspace = (void *)take;
void *__TVMBackendFreeWorkspace = (void *)give_back;

/* ---- starting and stopping */

/* Of this thread. libc's own function for it is far from all others, so its page would add 60 KB. */
static int allowed(cpu_set_t *set) {
    CPU_ZERO(set);
    return syscall(SYS_sched_getaffinity, 0, sizeof *set, set) > 0;
}

int mn_allowed_cpus(void) {
    cpu_set_t set;
    if (!allowed(&set)) return 1;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n > MN_MOST_THREADS ? MN_MOST_THREADS : n;
}

static void bind(mn_worker *w, int cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(w->thread, sizeof one, &one);
}

/* A CPU for each thread; the caller's own is where it runs now, and it stays free to move. */
static void choose_cpus(mn_pool *p) {
    cpu_set_t set;
    p->placed = 0;
    if (!p->pin || p->threads < 2 || !allowed(&set) || CPU_COUNT(&set) < p->threads) return;
    int here = sched_getcpu(), n = 1;
    for (int cpu = 0; cpu < CPU_SETSIZE && n < p->threads; cpu++)
        if (CPU_ISSET(cpu, &set) && cpu != here) p->cpu[n++] = cpu;
    p->cpu[0] = here;
    p->placed = here >= 0;
}

void mn_pool_follow(mn_pool *p) {
    if (!p->placed) return;
    int here = sched_getcpu();
    if (here == p->cpu[0] || here < 0) return;
    for (int i = 1; i < p->threads; i++)
        if (p->cpu[i] == here) bind(&p->workers[i], p->cpu[i] = p->cpu[0]);
    p->cpu[0] = here;
}

void mn_pool_init(mn_pool *p, int spin_microseconds, int pinned) {
    p->spin_nanoseconds = spin_microseconds < 0 ? 0 : 1000 * (int64_t)(spin_microseconds ? spin_microseconds : 100);
    p->pin = pinned;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
}

static void stop(mn_pool *p) {
    atomic_store(&p->stop, 1);
    announce(p);
    for (int i = 1; i < p->started; i++) pthread_join(p->workers[i].thread, NULL);
    atomic_store(&p->stop, 0);
    atomic_store(&p->generation, 0);
    p->started = 1;
}

/* All threads but the caller's; on an error none. */
static int start(mn_pool *p) {
    choose_cpus(p);
    for (int i = 1; i < p->threads; i++) {
        if (pthread_create(&p->workers[i].thread, NULL, work, &p->workers[i])) {
            stop(p);
            return mn_fail(MOBILENET_MEMORY, "the system starts no thread number %d", i + 1);
        }
        p->started = i + 1;
        if (p->placed) bind(&p->workers[i], p->cpu[i]);
    }
    return 0;
}

int mn_pool_threads(mn_pool *p, int threads) {
    mn_worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!workers) return mn_fail(MOBILENET_MEMORY, "no memory for %d threads", threads);
    if (p->started > 1) stop(p);
    free(p->workers);
    p->workers = workers;
    p->started = 1;
    p->threads = threads;
    for (int i = 0; i < threads; i++) workers[i].pool = p, workers[i].slot = i;
    int code = start(p);
    if (code) p->threads = 1;
    return code;
}

void mn_pool_forked(mn_pool *p) {
    p->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    p->wake = p->done = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    atomic_store(&p->generation, 0);
    atomic_store(&p->stop, 0);
    atomic_store(&p->sleeping, 0);
    atomic_store(&p->waiting, 0);
    for (int i = 0; p->workers && i < p->threads; i++) /* a run of another thread may have been under way */
        p->workers[i].used = 0, p->workers[i].live = p->workers[i].in_task = 0;
    p->started = 1;
}

int mn_pool_ready(mn_pool *p) { return p->started < p->threads ? start(p) : 0; }

void mn_pool_close(mn_pool *p) {
    if (p->started > 1) stop(p);
    free(p->workers);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->done);
}
