/* The list of open instances and their users: closed ones are refused, and instances stay usable after a fork.
 *
 * Every call names its instance by a pointer that may be stale: another thread closes it while the call waits, or
 * closed it long before. So a call enters by looking for the pointer among the open instances, and close takes it from
 * there first, then waits until the last call has left.
 *
 * A forked child has no thread but the one that forked. Locks that others held, and threads of the pools, are lost
 * there; the handler below makes them again. It takes no lock before the fork, since a signal's handler may fork too.
 */
#include "internal.h"

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static _Atomic(mobilenet *) first; /* each change is one store: a fork sees the list before or after it */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int unwatched;

static void in_child(void) {
    registry = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    left = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    for (mobilenet *m = atomic_load(&first); m; m = atomic_load(&m->next)) {
        m->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
        m->users = 0;
        if (!(m->torn = atomic_load(&m->changing))) mn_pool_forked(&m->pool); /* a torn one is never entered again */
    }
}

/* Functions of glibc without a header. pthread_atfork would register under a symbol that libraries of one linker share,
 * and its handler would stay when this library is unloaded: the next fork would jump to unmapped code. */
extern int __register_atfork(void (*before)(void), void (*parent)(void), void (*child)(void), void *library);
extern void __cxa_finalize(void *library);
static char own;

static void watch_forks(void) { unwatched = __register_atfork(NULL, NULL, in_child, &own); }

__attribute__((destructor)) static void unload(void) { __cxa_finalize(&own); }

int mn_publish(mobilenet *m) {
    pthread_once(&once, watch_forks);
    if (unwatched) return mn_fail(MOBILENET_MEMORY, "no memory to watch for forks");
    pthread_mutex_lock(&registry);
    atomic_store(&m->next, atomic_load(&first));
    atomic_store(&first, m);
    pthread_mutex_unlock(&registry);
    return 0;
}

/* Where a pointer to this instance is kept; NULL: it is not open. The registry is locked. */
static _Atomic(mobilenet *) *place_of(const mobilenet *m) {
    _Atomic(mobilenet *) *at = &first;
    for (mobilenet *found; (found = atomic_load(at)); at = &found->next)
        if (found == m) return at;
    return NULL;
}

int mn_enter(const mobilenet *instance) {
    mobilenet *m = (mobilenet *)(uintptr_t)instance;
    if (!m) return mn_fail(MOBILENET_ARGUMENT, "no instance");
    pthread_mutex_lock(&registry);
    int open = !!place_of(m), torn = open && m->torn;
    if (open && !torn) m->users++;
    pthread_mutex_unlock(&registry);
    if (torn)
        return mn_fail(MOBILENET_CLOSED, "this process was forked while another thread changed the number of threads of "
                       "this instance: open another one here");
    return open ? 0 : mn_fail(MOBILENET_CLOSED, "this instance is not open: it was closed, or never opened");
}

void mn_leave(const mobilenet *instance) {
    mobilenet *m = (mobilenet *)(uintptr_t)instance;
    pthread_mutex_lock(&registry);
    if (!--m->users && atomic_load(&m->closing)) pthread_cond_broadcast(&left);
    pthread_mutex_unlock(&registry);
}

int mn_retire(mobilenet *m) {
    pthread_mutex_lock(&registry);
    _Atomic(mobilenet *) *at = place_of(m);
    if (at) {
        atomic_store(&m->closing, 1);
        atomic_store(at, atomic_load(&m->next));
        while (m->users) pthread_cond_wait(&left, &registry);
    }
    pthread_mutex_unlock(&registry);
    return !!at;
}
