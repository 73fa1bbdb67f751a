/* Numbers of inputs and outputs: their meaning, checks for infinities and NaN, and the CPU's floating-point settings.
   */
#include <float.h>
#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "internal.h"

/* ---- the floating-point control register */

#if defined(__x86_64__)
static uint64_t control(void) { return __builtin_ia32_stmxcsr(); }
static void set_control(uint64_t value) { __builtin_ia32_ldmxcsr((unsigned)value); }
enum { DEFAULT = 0x1f80 }; /* no trap, nothing else */
#elif defined(__aarch64__)
static uint64_t control(void) {
    uint64_t value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
}
static void set_control(uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
enum { DEFAULT = 0 };
#else
static uint64_t control(void) {
    uint32_t value;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(value));
    return value;
}
static void set_control(uint64_t value) { __asm__ volatile("vmsr fpscr, %0" : : "r"((uint32_t)value) : "memory"); }
enum { DEFAULT = 0 };
#endif

mn_floats mn_floats_begin(void) {
    mn_floats before = {control()};
    if (before.control != DEFAULT) set_control(DEFAULT);
    return before;
}

void mn_floats_end(mn_floats before) { set_control(before.control); }

/* ---- values */

static double of_half(uint16_t bits) {
    int exponent = bits >> 10 & 31, digits = bits & 1023;
    if (exponent == 31) return digits ? NAN : bits >> 15 ? -INFINITY : INFINITY;
    double size = exponent ? (1024 + digits) * 0x1p-25 : digits * 0x1p-24;
    for (int i = 0; i < exponent; i++) size *= 2;
    return bits >> 15 ? -size : size;
}

/* Which of a tensor's scales a value has. */
static int scale_of(const mobilenet_tensor *t, size_t i) {
    if (t->scales < 2) return 0;
    for (int d = t->dimensions - 1; d > t->axis; d--) i /= (size_t)t->shape[d];
    return (int)(i % (size_t)t->shape[t->axis]);
}

double mn_value(const mobilenet_tensor *t, const void *data, size_t i) {
    const char *dtype = t->dtype;
    float single;
    uint16_t half;
    if (!strcmp(dtype, "float32")) return memcpy(&single, (const char *)data + 4 * i, 4), single;
    if (!strcmp(dtype, "float16")) return memcpy(&half, (const char *)data + 2 * i, 2), of_half(half);
    int whole = *dtype == 'u' ? ((const uint8_t *)data)[i] : ((const int8_t *)data)[i], of = scale_of(t, i);
    return t->scales ? (whole - t->zero_point[of]) * t->scale[of] : whole;
}

/* ---- checks for infinities and NaN */

enum { TOGETHER = 16384, BLOCK = 4096, PIECE = 128, SUMS = 8, INFINITE = 0x7f800000, INFINITE_HALF = 0x7c00 };

/* The largest magnitude, as bits without their sign: those of infinities and NaN are above all others. */
#define LARGEST(name, word, digits)                                                                        \
    name(const word *bits, size_t n) {                                                                     \
        word most = 0;                                                                                     \
        for (size_t i = 0; i < n; i++) most = most > (bits[i] & digits) ? most : (word)(bits[i] & digits); \
        return most;                                                                                       \
    }
static uint32_t LARGEST(of_singles, uint32_t, 0x7fffffff)
static uint16_t LARGEST(of_halves, uint16_t, 0x7fff)

/* A fast check of n values, whole PIECEs: one fused multiply-add for each vector, where a maximum of magnitudes takes two
 * instructions and a mask. It keeps several sums, since each multiply-add waits for the one before. If one of the values
 * is refused, the result is NaN or at least `surely`. */
#define SUM(name, vector, all, add)                                                      \
    name(const float *values, size_t n, float factor) {                                  \
        enum { LANES = sizeof(vector) / sizeof(float) };                                 \
        vector sums[SUMS] = {{0}}, by = all(factor);                                     \
        float found[LANES], sum = 0;                                                     \
        for (const float *v = values, *end = v + n; v < end; v += SUMS * LANES) {        \
            vector read[SUMS];                                                           \
            memcpy(read, v, sizeof read);                                                \
            for (int k = 0; k < SUMS; k++) sums[k] = add(sums[k], read[k], by);          \
        }                                                                                \
        for (int k = 1; k < SUMS; k++) sums[0] += sums[k];                               \
        memcpy(found, sums, sizeof found);                                               \
        for (int k = 0; k < LANES; k++) sum += found[k];                                 \
        return sum;                                                                      \
    }
typedef float (*quick)(const float *values, size_t n, float factor);
static const uint32_t LARGEST_SINGLE = INFINITE - 1;

#if defined(__x86_64__) /* whose first generation, for which this is compiled, has neither: cpu.c looked for them at open */
/* Each value times a factor: a value beyond the limit gives four times the largest float, which no finite sum brings
 * back. So the sum becomes an infinity or NaN, and stays so. The value is an operand in memory. */
#define SCALED_256(sum, v, by) _mm256_fmadd_ps(v, by, sum)
#define SCALED_512(sum, v, by) _mm512_fmadd_ps(v, by, sum)
__attribute__((target("avx2,fma"))) static float SUM(scaled_avx2, __m256, _mm256_set1_ps, SCALED_256)
__attribute__((target("avx512f"))) static float SUM(scaled_avx512, __m512, _mm512_set1_ps, SCALED_512)
static quick quick_of(float limit, float *factor, double *surely) {
    *surely = INFINITY;
    *factor = (float)(4.0 * FLT_MAX / (double)limit * (1 + 1e-6));
    if (strstr(mn_model.features, "avx512f")) return scaled_avx512;
    return strstr(mn_model.features, "avx2") && strstr(mn_model.features, "fma") ? scaled_avx2 : NULL;
}
#elif defined(__aarch64__)
/* Squares: a sum of them is not less than the largest, rounding aside. */
#define SQUARES(sum, v, by) vfmaq_f32(sum, v, v)
static float SUM(squares_neon, float32x4_t, vdupq_n_f32, SQUARES)
static quick quick_of(float limit, float *factor, double *surely) {
    *factor = 1;
    *surely = (double)limit * (double)limit * (1 - 1e-6); /* each sum is rounded to 2^-24 of it */
    return squares_neon;
}
#else
static quick quick_of(float limit, float *factor, double *surely) { return *surely = *factor = limit, (quick)NULL; }
#endif

/* Whether one of n magnitudes is beyond `most`. */
static int any_beyond(const uint32_t *bits, size_t n, uint32_t most) {
    float limit, factor;
    double surely;
    memcpy(&limit, &most, sizeof limit);
    quick look = quick_of(limit, &factor, &surely);
    for (size_t some; look && n >= PIECE; bits += some, n -= some) {
        some = n < BLOCK ? n / PIECE * PIECE : BLOCK;
        if (!(fabs((double)look((const float *)bits, some, factor)) < surely) && of_singles(bits, some) > most) return 1;
    }
    return of_singles(bits, n) > most;
}

static int is_of(const mobilenet_tensor *t, const char *dtype) { return !strcmp(t->dtype, dtype); }

typedef struct {
    const mobilenet_tensor *port;
    const void *data;
    uint32_t most; /* of a float32: bits */
    atomic_int odd;
} looked;

/* Whether n values from the first-th on have one that is refused. */
static int has_odd(const looked *l, size_t first, size_t n) {
    if (is_of(l->port, "float32")) return any_beyond((const uint32_t *)l->data + first, n, l->most);
    return is_of(l->port, "float16") && of_halves((const uint16_t *)l->data + first, n) >= INFINITE_HALF;
}

static size_t values_of(const mobilenet_tensor *t) { return t->bytes / (is_of(t, "float32") ? 4 : is_of(t, "float16") ? 2 : 1); }

static int look(int id, void *environment, void *data) {
    struct {
        void *sync;
        int32_t tasks;
    } *e = environment;
    looked *l = data;
    size_t n = values_of(l->port), tasks = (size_t)e->tasks, from = n * (size_t)id / tasks;
    if (has_odd(l, from, n * (size_t)(id + 1) / tasks - from)) atomic_store(&l->odd, 1);
    return 0;
}

/* The first value that is refused. */
static size_t first_odd(const looked *l) {
    size_t i = 0;
    while (!has_odd(l, i, 1)) i++;
    return i;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

int mn_check_input(mn_pool *p, uint32_t input, const void *data) {
    const mobilenet_tensor *port = mn_model.ports + input;
    float most = mn_model.largest[input];
    looked l = {port, data, bits_of(most), 0};
    size_t n = values_of(port);
    if (n == port->bytes) return 0; /* whole numbers */
    if (n < TOGETHER) atomic_store(&l.odd, has_odd(&l, 0, n));
    else mn_pool_share(p, look, &l, p->threads);
    if (!atomic_load(&l.odd)) return 0;
    size_t at = first_odd(&l);
    double value = mn_value(port, data, at);
    if (isfinite(value))
        return mn_fail(MOBILENET_INFINITE, "input %s holds %g at %zu, beyond %g: sums of the layers that read it may "
                       "overflow", port->name, value, at, (double)most);
    return mn_fail(MOBILENET_INFINITE, "input %s holds %s at %zu: give finite numbers", port->name,
                   isnan(value) ? "NaN" : "an infinity", at);
}

int mn_check_output(uint32_t output, const void *data) {
    const mobilenet_tensor *port = mn_model.ports + mn_model.inputs + output;
    looked l = {port, data, LARGEST_SINGLE, 0};
    if (!has_odd(&l, 0, values_of(port))) return 0;
    return mn_fail(MOBILENET_INFINITE, "output %s is an infinity or NaN at %zu: the input or the weights are damaged, or "
                   "values left the range of the layers' dtype", port->name, first_odd(&l));
}
