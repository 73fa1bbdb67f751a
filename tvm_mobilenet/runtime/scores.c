/* The best classes, and how probable they are; and whether results are numbers at all. */
#include <math.h>
#include <string.h>

#include "internal.h"

/* e to the power of x, x at most 0, to the last digit but one; libm's costs 360 KB of pages. */
static double power_of_e(double x) {
    if (!(x > -700)) return x == x ? 0 : x;
    int n = (int)(x * 1.4426950408889634 - 0.5); /* to the nearest power of two */
    double r = x - n * 0.6931471803691238 - n * 1.9082149292705877e-10, term = 1, sum = 1;
    for (int i = 1; i < 15; i++) sum += term *= r / i;
    uint64_t bits = (uint64_t)(1023 + n) << 52;
    double two_to_n;
    memcpy(&two_to_n, &bits, sizeof bits);
    return sum * two_to_n;
}

static double softmax_of(const float *scores, int n, double most) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += power_of_e(scores[i] - most);
    return sum;
}

/* The first value of a tensor that is an infinity or NaN; -1: there is none. */
static int64_t first_odd(const mobilenet_tensor *t, const void *data) {
    if (!strcmp(t->dtype, "float32"))
        for (size_t i = 0; i < t->bytes / 4; i++)
            if (!isfinite(((const float *)data)[i])) return (int64_t)i;
    if (!strcmp(t->dtype, "float16")) /* all ones in the exponent */
        for (size_t i = 0; i < t->bytes / 2; i++)
            if ((((const uint16_t *)data)[i] & 0x7c00) == 0x7c00) return (int64_t)i;
    return -1;
}

int mn_check_outputs(void *const *outputs) {
    const mobilenet_tensor *ports = mn_model.ports + mn_model.inputs;
    for (uint32_t o = 0; o < mn_model.outputs; o++) {
        int64_t at = first_odd(&ports[o], outputs[o]);
        if (at >= 0)
            return mn_fail(MOBILENET_INFINITE, "output %s is an infinity or NaN at %lld: the input or the weights are "
                           "damaged, or values left the range of the layers' dtype", ports[o].name, (long long)at);
    }
    return 0;
}

int mobilenet_top(const mobilenet *m, const float *scores, int k, mobilenet_class *best) {
    if (!m || !scores || !best || k < 1) return 0;
    for (int i = 0; i < m->info.classes; i++)
        if (!isfinite(scores[i])) return mn_fail(MOBILENET_INFINITE, "score %d is an infinity or NaN", i), 0;
    int have = 0;
    for (int i = 0; i < m->info.classes; i++) {
        if (have == k && !(scores[i] > best[k - 1].score)) continue;
        int at = have < k ? have++ : k - 1;
        for (; at && scores[i] > best[at - 1].score; at--) best[at] = best[at - 1];
        best[at] = (mobilenet_class){i, scores[i], -1, m->info.labels ? m->info.labels[i] : NULL};
    }
    double most = have ? best[0].score : 0, sum = 1;
    if (mn_model.scores == MN_LOGITS) sum = softmax_of(scores, m->info.classes, most);
    for (int i = 0; i < have && mn_model.scores != MN_VALUE; i++)
        best[i].probability =
            mn_model.scores == MN_LOGITS ? (float)(power_of_e(best[i].score - most) / sum) : best[i].score;
    return have;
}
