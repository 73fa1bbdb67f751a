/* What careless programs do with instances: each way must end in a message or in the right scores. argv: a folder that
 * may be changed, the name of a way. Prints nothing and ends with 0 when all went as it should. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mobilenet.h"

#define MUST(what) ((what) ? (void)0 : fails(__LINE__, #what))
enum { CALLERS = 4, A_LONG_TIME = 300 }; /* seconds: far beyond what anything here takes on a busy machine */

static const char *folder;
static float *input, *expected;
static size_t bytes;

static void fails(int line, const char *what) {
    fprintf(stderr, "line %d: not %s; the last error: %s\n", line, what, mobilenet_last_error());
    _exit(1);
}

static mobilenet *opened_as(mobilenet_options o) {
    mobilenet *m;
    o.max_width = o.max_height = 640;
    MUST(!mobilenet_open(folder, &o, &m));
    return m;
}

static mobilenet *opened(int threads) { return opened_as((mobilenet_options){.threads = threads}); }

/* 0 and the right scores, or what the call says. */
static int run(mobilenet *m) {
    float *scores = malloc(bytes);
    int code = mobilenet_run(m, (const void *[]){input}, (void *[]){scores});
    MUST(code || !memcmp(scores, expected, bytes));
    free(scores);
    return code;
}

/* That a child ends well, and soon. */
static void ends_well(pid_t child) {
    int status;
    while (waitpid(child, &status, 0) < 0) MUST(errno == EINTR);
    MUST(WIFEXITED(status));
    MUST(!WEXITSTATUS(status));
}

static pid_t forked(void) {
    pid_t child = fork();
    MUST(child >= 0);
    if (!child) alarm(A_LONG_TIME);
    return child;
}

/* ---- close */

typedef struct {
    mobilenet *m;
    atomic_int runs;
    int other; /* what it does beside running */
} caller;

static atomic_int waited; /* calls that close found waiting */

static void *runs_until_closed(void *argument) {
    caller *c = argument;
    int code = 0;
    while (!code) {
        mobilenet_class best[3];
        code = run(c->m);
        if (!code && c->other == 1) code = mobilenet_set_threads(c->m, 1 + atomic_load(&c->runs) % 3);
        if (!code && c->other == 2) mobilenet_top(c->m, expected, 3, best);
        atomic_fetch_add(&c->runs, 1);
    }
    MUST(code == MOBILENET_CLOSED);
    if (strstr(mobilenet_last_error(), "waited")) atomic_fetch_add(&waited, 1);
    return NULL;
}

static void *closes(void *m) { return mobilenet_close(m), NULL; }

static void closed_while_it_runs(void) {
    for (int round = 0; round < 8; round++) {
        mobilenet *m = opened(1 + round % 3);
        pthread_t threads[CALLERS + 2];
        caller callers[CALLERS] = {0};
        for (int i = 0; i < CALLERS; i++) {
            callers[i].m = m;
            callers[i].other = i;
            pthread_create(&threads[i], NULL, runs_until_closed, &callers[i]);
        }
        for (int i = 0; i < CALLERS; i++)
            while (!atomic_load(&callers[i].runs)) usleep(100);
        for (int i = 0; i < 2; i++) pthread_create(&threads[CALLERS + i], NULL, closes, m);
        for (int i = 0; i < CALLERS + 2; i++) pthread_join(threads[i], NULL);
    }
    MUST(atomic_load(&waited)); /* these did not run first */
}

static void used_after_close(void) {
    mobilenet *m = opened(2), *other = opened(1);
    int64_t nanoseconds[4096];
    uint8_t pixels[12] = {0};
    mobilenet_class best[3];
    mobilenet_close(m);
    mobilenet_close(m);
    mobilenet_close(NULL);
    mobilenet_close((mobilenet *)&best); /* never one */
    MUST(run(m) == MOBILENET_CLOSED);
    MUST(strstr(mobilenet_last_error(), "closed"));
    MUST(mobilenet_run_steps(m, (const void *[]){input}, (void *[]){input}, 0, 1) == MOBILENET_CLOSED);
    MUST(mobilenet_run_rgb(m, pixels, 2, 2, 0, input) == MOBILENET_CLOSED);
    MUST(mobilenet_preprocess(m, pixels, 2, 2, 0, input) == MOBILENET_CLOSED);
    MUST(mobilenet_set_threads(m, 2) == MOBILENET_CLOSED);
    MUST(mobilenet_selftest(m, NULL) == MOBILENET_CLOSED);
    MUST(mobilenet_times(m, nanoseconds) == MOBILENET_CLOSED);
    MUST(!mobilenet_operand(m, 0, 0));
    MUST(!mobilenet_top(m, expected, 3, best));
    MUST(!mobilenet_describe(m));
    MUST(!mobilenet_describe(NULL));
    MUST(mobilenet_selftest(NULL, NULL) == MOBILENET_ARGUMENT);
    MUST(!run(other));
    mobilenet_close(other);
}

static void *opens_and_closes(void *unused) {
    (void)unused;
    for (int i = 0; i < 6; i++) {
        mobilenet *m = opened(1 + i % 3);
        MUST(!run(m));
        mobilenet_close(m);
    }
    return NULL;
}

static void opened_by_many(void) {
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++) pthread_create(&threads[i], NULL, opens_and_closes, NULL);
    for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
}

/* ---- threads */

static atomic_int enough;

static void *reads_threads(void *m) {
    long sum = 0;
    while (!atomic_load(&enough)) {
        const mobilenet_info *info = mobilenet_describe(m);
        MUST(info->threads >= 1 && info->threads <= 3 && info->arena_bytes);
        sum += info->threads;
    }
    return (void *)sum;
}

static void threads_read_while_set(void) {
    mobilenet *m = opened(1);
    pthread_t reader;
    pthread_create(&reader, NULL, reads_threads, m);
    for (int i = 0; i < 60; i++) {
        MUST(!mobilenet_set_threads(m, 1 + i % 3));
        MUST(mobilenet_describe(m)->threads == 1 + i % 3);
    }
    atomic_store(&enough, 1);
    pthread_join(reader, NULL);
    const mobilenet_info *early = mobilenet_describe(m);
    for (int i = 0; i < 8; i++) MUST(!mobilenet_set_threads(m, 1 + i % 3));
    MUST(mobilenet_describe(m) != early && early->threads == 3); /* what was read stays as it was */
    MUST(!run(m));
    mobilenet_close(m);
}

/* ---- fork */

static void in_child(mobilenet *m) {
    MUST(!run(m));
    MUST(!mobilenet_set_threads(m, 3));
    MUST(!run(m));
    pid_t grandchild = forked();
    if (!grandchild) {
        MUST(!run(m));
        mobilenet_close(m);
        _exit(0);
    }
    ends_well(grandchild);
    MUST(!run(m));
    mobilenet_close(m);
    MUST(run(m) == MOBILENET_CLOSED);
    m = opened(2);
    MUST(!run(m));
    mobilenet_close(m);
    _exit(0);
}

static void run_in_children(void) {
    for (int threads = 1; threads < 4; threads++) {
        mobilenet *m = opened(threads), *mapped = opened_as((mobilenet_options){.threads = threads, .map_weights = 1});
        if (threads > 1) MUST(!run(m));
        pid_t children[2];
        for (int i = 0; i < 2; i++)
            if (!(children[i] = forked())) in_child(i ? mapped : m);
        MUST(!run(m));
        pid_t closing = forked();
        if (!closing) mobilenet_close(m), _exit(0);
        for (int i = 0; i < 2; i++) ends_well(children[i]);
        ends_well(closing);
        MUST(!run(m));
        mobilenet_close(m);
        mobilenet_close(mapped);
    }
}

static void *describes_until_closed(void *m) {
    while (mobilenet_describe(m)) continue;
    return NULL;
}

/* Others run, change the number of threads and ask at the moment of the fork: their locks are held in the child. */
static void forked_while_it_runs(void) {
    mobilenet *m = opened(2);
    pthread_t threads[CALLERS + 2];
    caller callers[CALLERS] = {0};
    for (int i = 0; i < CALLERS; i++) {
        callers[i].m = m;
        callers[i].other = i;
        pthread_create(&threads[i], NULL, runs_until_closed, &callers[i]);
    }
    for (int i = 0; i < CALLERS; i++)
        while (!atomic_load(&callers[i].runs)) usleep(100);
    for (int i = 0; i < 2; i++) pthread_create(&threads[CALLERS + i], NULL, describes_until_closed, m);
    for (int i = 0; i < 24; i++) {
        pid_t child = forked();
        if (!child) {
            int code = run(m);
            MUST(!code || (code == MOBILENET_CLOSED && strstr(mobilenet_last_error(), "forked")));
            mobilenet_close(m);
            _exit(0);
        }
        ends_well(child);
    }
    mobilenet_close(m);
    for (int i = 0; i < CALLERS + 2; i++) pthread_join(threads[i], NULL);
}

static void *changes_until_closed(void *m) {
    int code = 0;
    for (int i = 0; !code; i++) code = mobilenet_set_threads(m, 1 + i % 3);
    return NULL;
}

/* What another thread left half changed is refused in the child, and can be closed there. */
static void forked_while_threads_change(void) {
    enum { TORN = 42, MOST = 2000 };
    mobilenet *m = opened(2);
    pthread_t thread;
    int torn = 0;
    pthread_create(&thread, NULL, changes_until_closed, m);
    for (int i = 0; i < MOST && !torn; i++) {
        pid_t child = forked();
        if (!child) {
            int code = run(m);
            MUST(!code || (code == MOBILENET_CLOSED && strstr(mobilenet_last_error(), "forked while another thread")));
            mobilenet_close(m);
            m = opened(2);
            MUST(!run(m));
            _exit(code ? TORN : 0);
        }
        int status;
        while (waitpid(child, &status, 0) < 0) MUST(errno == EINTR);
        MUST(WIFEXITED(status));
        MUST(!WEXITSTATUS(status) || WEXITSTATUS(status) == TORN);
        torn = WEXITSTATUS(status);
    }
    MUST(torn);
    mobilenet_close(m);
    pthread_join(thread, NULL);
}

/* The handler of forks goes with the library. */
static void forked_after_unload(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/libmobilenet.so", folder);
    for (int i = 0; i < 3; i++) {
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        MUST(library);
        int (*open_it)(const char *, const mobilenet_options *, mobilenet **);
        void (*close_it)(mobilenet *);
        *(void **)&open_it = dlsym(library, "mobilenet_open");
        *(void **)&close_it = dlsym(library, "mobilenet_close");
        mobilenet *m;
        MUST(!open_it(folder, &(mobilenet_options){.threads = 2}, &m));
        close_it(m);
        MUST(!dlclose(library));
        pid_t child = forked();
        if (!child) _exit(0);
        ends_well(child);
    }
}

/* ---- files */

static int weights(int flags) {
    char path[4096];
    snprintf(path, sizeof path, "%s/weights.bin", folder);
    int file = open(path, flags, 0644);
    MUST(file >= 0);
    return file;
}

static void weights_change_and_shrink(void) {
    mobilenet *m = opened(2);
    char zeros[65536] = {0};
    int file = weights(O_RDWR);
    off_t end = lseek(file, 0, SEEK_END);
    char *all = malloc((size_t)end);
    MUST(pread(file, all, (size_t)end, 0) == end);
    for (off_t at = 0; at < end; at += (off_t)sizeof zeros)
        MUST(pwrite(file, zeros, sizeof zeros, at) == (ssize_t)sizeof zeros);
    MUST(!run(m));
    MUST(!ftruncate(file, 64));
    MUST(!run(m));
    MUST(!mobilenet_set_threads(m, 3));
    MUST(!run(m));
    mobilenet *other;
    MUST(mobilenet_open(folder, NULL, &other) == MOBILENET_CORRUPT && !other);
    MUST(!ftruncate(file, 0));
    MUST(pwrite(file, all, (size_t)end, 0) == end);
    free(all);
    close(file);
    mobilenet_close(m);
    m = opened(1);
    MUST(!run(m));
    mobilenet_close(m);
}

static void folder_is_relative(void) {
    mobilenet *m, *named;
    mobilenet_selftest_result result;
    char here[4096], name[4096];
    MUST(getcwd(here, sizeof here));
    MUST(!chdir(folder));
    snprintf(name, sizeof name, "../%s", strrchr(folder, '/') + 1);
    MUST(!mobilenet_open(".", NULL, &m));
    MUST(!mobilenet_open(name, NULL, &named));
    MUST(!chdir("/"));
    MUST(!mobilenet_selftest(m, &result) && result.samples > 0);
    MUST(!mobilenet_selftest(named, &result) && result.samples > 0);
    MUST(!chdir(here));
    mobilenet_close(m);
    mobilenet_close(named);
}

static void path_is_empty(void) {
    mobilenet *m;
    MUST(mobilenet_open("", NULL, &m) == MOBILENET_ARGUMENT && !m);
    MUST(strstr(mobilenet_last_error(), "empty path"));
    MUST(mobilenet_open_weights("", NULL, &m) == MOBILENET_ARGUMENT && !m);
    MUST(mobilenet_check("") == MOBILENET_ARGUMENT);
    MUST(mobilenet_open(NULL, NULL, &m) == MOBILENET_ARGUMENT);
    MUST(mobilenet_open(folder, NULL, NULL) == MOBILENET_ARGUMENT);
}

static void left_while_it_runs(void) {
    static caller c;
    pthread_t thread;
    c.m = opened(2);
    pthread_create(&thread, NULL, runs_until_closed, &c);
    while (!atomic_load(&c.runs)) usleep(100);
    exit(0);
}

static const struct {
    const char *name;
    void (*way)(void);
} ways[] = {{"closed_while_it_runs", closed_while_it_runs},
            {"used_after_close", used_after_close},
            {"opened_by_many", opened_by_many},
            {"threads_read_while_set", threads_read_while_set},
            {"run_in_children", run_in_children},
            {"forked_while_it_runs", forked_while_it_runs},
            {"forked_while_threads_change", forked_while_threads_change},
            {"forked_after_unload", forked_after_unload},
            {"weights_change_and_shrink", weights_change_and_shrink},
            {"folder_is_relative", folder_is_relative},
            {"path_is_empty", path_is_empty},
            {"left_while_it_runs", left_while_it_runs}};

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    alarm(2 * A_LONG_TIME);
    folder = argv[1];
    mobilenet *m = opened(1);
    const mobilenet_info *info = mobilenet_describe(m);
    bytes = info->output[0].bytes;
    input = malloc(info->input[0].bytes);
    expected = malloc(bytes);
    for (size_t i = 0; i < info->input[0].bytes / 4; i++) input[i] = (float)(i * 2654435761u % 2001) / 1000 - 1;
    MUST(!mobilenet_run(m, (const void *[]){input}, (void *[]){expected}));
    mobilenet_close(m);
    int known = 0;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (!strcmp(argv[2], ways[i].name)) known = 1, ways[i].way();
    free(input);
    free(expected);
    return known ? 0 : 2;
}
