/* The self-test: compares the kernels' outputs on this machine with the expected ones of the build. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

/* ---- the self-test */

static size_t resident(void) {
    long pages = 0, ignored;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    if (fscanf(f, "%ld %ld", &ignored, &pages) != 2) pages = 0;
    fclose(f);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static double milliseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* The largest difference of real numbers; infinite for NaN. */
static double difference(const mobilenet_tensor *t, const void *found, const void *expected) {
    double most = 0;
    size_t n = 1;
    for (int d = 0; d < t->dimensions; d++) n *= (size_t)t->shape[d];
    for (size_t i = 0; i < n; i++) {
        double d = fabs(mn_value(t, found, i) - mn_value(t, expected, i));
        if (!(d <= most)) most = isfinite(d) ? d : INFINITY;
    }
    return most;
}

/* selftest.bin: this, then the unit of each output's differences, then inputs and outputs of each sample. */
typedef struct {
    char magic[8];
    uint64_t samples;
    double tolerance;
} header;

static int compare(mobilenet *m, const char *data, void **in, void **out, mobilenet_selftest_result *r) {
    enum { REPEATS = 5 };
    header h;
    const double *units = (const double *)(data + sizeof h); /* malloc's memory: aligned */
    memcpy(&h, data, sizeof h);
    data += sizeof h + sizeof(double) * (size_t)m->info.outputs;
    r->allowed = (float)h.tolerance;
    int ports = m->info.inputs + m->info.outputs, code;
    double times[REPEATS];
    for (uint64_t s = 0; s < h.samples; s++) {
        for (int i = 0; i < m->info.inputs; i++) {
            memcpy(in[i], data, m->info.input[i].bytes);
            data += m->info.input[i].bytes;
        }
        for (int k = 0; k < (s ? 1 : REPEATS); k++) {
            double start = milliseconds();
            if ((code = mobilenet_run(m, (const void *const *)in, out))) return code;
            double t = milliseconds() - start;
            int at = k;
            for (; at && times[at - 1] > t; at--) times[at] = times[at - 1];
            times[at] = t;
            if (!s && !k) r->resident_bytes = resident();
        }
        if (!s) r->milliseconds = times[REPEATS / 2];
        for (int i = m->info.inputs; i < ports; i++) {
            int o = i - m->info.inputs;
            double d = difference(&m->info.input[i], out[o], data) / units[o];
            if (d > r->difference) r->difference = (float)d;
            data += m->info.input[i].bytes;
        }
        r->samples++;
    }
    if (r->difference <= r->allowed) return 0;
    return mn_fail(MOBILENET_WRONG, "the outputs differ from the expected ones by %.2e of their scale, %.2e is allowed",
                   r->difference, r->allowed);
}

static int test(mobilenet *m, mobilenet_selftest_result *result) {
    mobilenet_selftest_result r = {0};
    header h;
    size_t n, sample = 0, before;
    char *data = NULL;
    void *buffers[64] = {0};
    mn_folder folder;
    if (!m->folder) return mn_fail(MOBILENET_ARGUMENT, "opened without a folder");
    int ports = m->info.inputs + m->info.outputs, code = ports > 64 ? MOBILENET_ARGUMENT : 0;
    for (int i = 0; i < ports; i++) sample += m->info.input[i].bytes;
    if (code || (code = mn_folder_open(&folder, m->folder))) return code;
    if (!(code = mn_folder_check(&folder, 1))) code = mn_read(&folder, "selftest.bin", SIZE_MAX / 2, &data, &n);
    mn_folder_close(&folder);
    if (code) return code;
    before = sizeof h + sizeof(double) * (size_t)m->info.outputs;
    if (n >= before) memcpy(&h, data, sizeof h);
    if (n < before || memcmp(h.magic, "MNTESTS1", 8) || (n - before) / sample != h.samples || (n - before) % sample)
        code = mn_fail(MOBILENET_CORRUPT, "selftest.bin has %zu bytes", n);
    for (int i = 0; i < ports && !code; i++)
        if (!(buffers[i] = mn_allocate(m->info.input[i].bytes))) code = mn_fail(MOBILENET_MEMORY, "no memory");
    if (!code) code = compare(m, data, buffers, buffers + m->info.inputs, &r);
    for (int i = 0; i < ports; i++) free(buffers[i]);
    free(data);
    if (result) *result = r;
    return code;
}

int mobilenet_selftest(mobilenet *m, mobilenet_selftest_result *result) {
    int code = mn_enter(m);
    if (code) return code;
    mn_floats before = mn_floats_begin();
    code = test(m, result);
    mn_floats_end(before);
    mn_leave(m);
    return code;
}
