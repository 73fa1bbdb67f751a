/* Whether this CPU can run the kernels, and whether they compute here what PyTorch computed where they were built. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#else
#include <sys/auxv.h>
#endif

#include "internal.h"

#if defined(__x86_64__)
/* leaf 1 ECX, leaf 7 EBX, leaf 7 ECX; the system must save the registers as well (XCR0) */
static const struct {
    const char *name;
    int word, bit;
    unsigned saved;
} known[] = {{"ssse3", 0, 9, 0},         {"sse4_1", 0, 19, 0},      {"sse4_2", 0, 20, 0},    {"popcnt", 0, 23, 0},
             {"avx", 0, 28, 0x6},       {"fma", 0, 12, 0x6},       {"f16c", 0, 29, 0x6},     {"avx2", 1, 5, 0x6},
             {"bmi2", 1, 8, 0},         {"avx512f", 1, 16, 0xe6},  {"avx512dq", 1, 17, 0xe6}, {"avx512bw", 1, 30, 0xe6},
             {"avx512vl", 1, 31, 0xe6}, {"avx512vnni", 2, 11, 0xe6}};

static int has(const char *name, size_t n) {
    unsigned a, b, c, d, words[3] = {0}, low = 0, high = 0;
    if (__get_cpuid(1, &a, &b, &c, &d)) words[0] = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) words[1] = b, words[2] = c;
    if (words[0] >> 27 & 1) __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].name) == n && !memcmp(known[i].name, name, n))
            return words[known[i].word] >> known[i].bit & 1 && (low & known[i].saved) == known[i].saved;
    return 0;
}
#else
/* bits of AT_HWCAP, or of AT_HWCAP2, in the kernel's <asm/hwcap.h> */
static const struct {
    const char *name;
    unsigned long auxiliary;
    int bit;
} known[] = {
#if defined(__aarch64__)
    {"asimd", AT_HWCAP, 1},     {"fphp", AT_HWCAP, 9}, {"asimdhp", AT_HWCAP, 10},
    {"asimddp", AT_HWCAP, 20},  {"sve", AT_HWCAP, 22}, {"i8mm", AT_HWCAP2, 13}, {"bf16", AT_HWCAP2, 14},
#else
    {"neon", AT_HWCAP, 12}, {"vfpv4", AT_HWCAP, 16}, {"idiva", AT_HWCAP, 17},
#endif
};

static int has(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].name) == n && !memcmp(known[i].name, name, n))
            return getauxval(known[i].auxiliary) >> known[i].bit & 1;
    return 0;
}
#endif

int mn_check_cpu(void) {
    for (const char *at = mn_model.features; *at;) {
        size_t n = strcspn(at, " ");
        if (!has(at, n))
            return mn_fail(MOBILENET_CPU, "this CPU has no %.*s, which a build for %s needs: build with --target %s", (int)n,
                           at, mn_model.target, strcmp(mn_model.architecture, "aarch64") ? "host here" : "arm");
        at += n + (at[n] == ' ');
    }
    return 0;
}

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

/* The largest difference; infinite for NaN. */
static double difference(const float *found, const float *expected, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)found[i] - expected[i]);
        if (!(d <= most)) most = isfinite(d) ? d : INFINITY;
    }
    return most;
}

static int compare(mobilenet *m, const char *data, void **in, void **out, mobilenet_selftest_result *r) {
    enum { REPEATS = 5 };
    int ports = m->info.inputs + m->info.outputs, code;
    double times[REPEATS];
    for (int s = 0; s < mn_model.samples; s++) {
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
            double d = difference(out[o], (const float *)data, m->info.input[i].bytes / sizeof(float)) / mn_model.units[o];
            if (d > r->difference) r->difference = (float)d;
            data += m->info.input[i].bytes;
        }
        r->samples++;
    }
    if (r->difference <= r->allowed) return 0;
    return mn_fail(MOBILENET_WRONG, "the outputs differ from PyTorch's by %.2e of their scale, %.2e is allowed",
                   r->difference, r->allowed);
}

int mobilenet_selftest(mobilenet *m, mobilenet_selftest_result *result) {
    mobilenet_selftest_result r = {.allowed = (float)mn_model.tolerance};
    size_t n, sample = 0;
    char *data = NULL;
    void *buffers[64] = {0};
    if (!m) return mn_fail(MOBILENET_ARGUMENT, "no instance");
    int ports = m->info.inputs + m->info.outputs, code = ports > 64 ? MOBILENET_ARGUMENT : mobilenet_check(m->folder);
    for (int i = 0; i < ports; i++) sample += m->info.input[i].bytes;
    if (!code) code = mn_read(m->folder, "selftest.bin", SIZE_MAX / 2, &data, &n);
    if (code) return code;
    if (n != sample * (size_t)mn_model.samples) code = mn_fail(MOBILENET_CORRUPT, "selftest.bin has %zu bytes", n);
    for (int i = 0; i < ports && !code; i++)
        if (!(buffers[i] = mn_allocate(m->info.input[i].bytes))) code = mn_fail(MOBILENET_MEMORY, "no memory");
    if (!code) code = compare(m, data, buffers, buffers + m->info.inputs, &r);
    for (int i = 0; i < ports; i++) free(buffers[i]);
    free(data);
    if (result) *result = r;
    return code;
}
