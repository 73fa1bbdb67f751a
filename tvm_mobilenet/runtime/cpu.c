/* Whether this CPU can run the kernels. */
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#else
#include <sys/auxv.h>
#endif

#include "internal.h"

#if defined(__x86_64__)
/* leaf 1 ECX, leaf 7 EBX, leaf 7 ECX, leaf 7 EDX; the system must save the registers as well (XCR0) */
static const struct {
    const char *name;
    int word, bit;
    unsigned saved;
} known[] = {{"ssse3", 0, 9, 0},         {"sse4_1", 0, 19, 0},      {"sse4_2", 0, 20, 0},    {"popcnt", 0, 23, 0},
             {"avx", 0, 28, 0x6},       {"fma", 0, 12, 0x6},       {"f16c", 0, 29, 0x6},     {"avx2", 1, 5, 0x6},
             {"bmi2", 1, 8, 0},         {"avx512f", 1, 16, 0xe6},  {"avx512dq", 1, 17, 0xe6}, {"avx512bw", 1, 30, 0xe6},
             {"avx512vl", 1, 31, 0xe6}, {"avx512vnni", 2, 11, 0xe6}, {"avx512fp16", 3, 23, 0xe6}};

static int has(const char *name, size_t n) {
    unsigned a, b, c, d, words[4] = {0}, low = 0, high = 0;
    if (__get_cpuid(1, &a, &b, &c, &d)) words[0] = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) words[1] = b, words[2] = c, words[3] = d;
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
    {"asimd", AT_HWCAP, 1},     {"atomics", AT_HWCAP, 8},  {"fphp", AT_HWCAP, 9},   {"asimdhp", AT_HWCAP, 10},
    {"asimdrdm", AT_HWCAP, 12}, {"fcma", AT_HWCAP, 14},    {"lrcpc", AT_HWCAP, 15}, {"asimddp", AT_HWCAP, 20},
    {"sve", AT_HWCAP, 22},      {"asimdfhm", AT_HWCAP, 23}, {"i8mm", AT_HWCAP2, 13}, {"bf16", AT_HWCAP2, 14},
#else
    {"neon", AT_HWCAP, 12}, {"vfpv4", AT_HWCAP, 16},   {"idiva", AT_HWCAP, 17},
    {"fphp", AT_HWCAP, 22}, {"asimdhp", AT_HWCAP, 23}, {"asimddp", AT_HWCAP, 24},
#endif
};

static int has(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].name) == n && !memcmp(known[i].name, name, n))
            return getauxval(known[i].auxiliary) >> known[i].bit & 1;
    return 0;
}
#endif

/* The build to suggest instead: for a float16 build no other target than its own computes float16. */
static const char *remedy(void) {
    static const char half[] = " float16"; /* the end of such a model's title */
    size_t n = strlen(mn_model.model), end = sizeof half - 1;
    if (strcmp(mn_model.architecture, "aarch64")) return "host here";
    return n > end && !strcmp(mn_model.model + n - end, half) ? "arm and without --dtype float16" : "arm";
}

int mn_check_cpu(void) {
    for (const char *at = mn_model.features; *at;) {
        size_t n = strcspn(at, " ");
        if (!has(at, n))
            return mn_fail(MOBILENET_CPU, "this CPU has no %.*s, which a build for %s needs: build with --target %s", (int)n,
                           at, mn_model.target, remedy());
        at += n + (at[n] == ' ');
    }
    return 0;
}
