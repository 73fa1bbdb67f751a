/* The best classes, and their probabilities. */
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

static double softmax_of(const void *scores, int n, double most) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += power_of_e(mn_value(mn_model.ports + mn_model.inputs, scores, (size_t)i) - most);
    return sum;
}

static int best_of(const mobilenet *m, const void *scores, int k, mobilenet_class *best) {
    const mobilenet_tensor *port = mn_model.ports + mn_model.inputs;
    int have = 0;
    for (int i = 0; i < m->info.classes; i++) {
        float score = (float)mn_value(port, scores, (size_t)i);
        if (!isfinite(score)) return mn_fail(MOBILENET_INFINITE, "score %d is an infinity or NaN", i), 0;
        if (have == k && !(score > best[k - 1].score)) continue;
        int at = have < k ? have++ : k - 1;
        for (; at && score > best[at - 1].score; at--) best[at] = best[at - 1];
        best[at] = (mobilenet_class){i, score, -1, m->info.labels ? m->info.labels[i] : NULL};
    }
    double most = have ? best[0].score : 0, sum = 1;
    if (mn_model.scores == MN_LOGITS) sum = softmax_of(scores, m->info.classes, most);
    for (int i = 0; i < have && mn_model.scores != MN_VALUE; i++)
        best[i].probability =
            mn_model.scores == MN_LOGITS ? (float)(power_of_e(best[i].score - most) / sum) : best[i].score;
    return have;
}

int mobilenet_top(const mobilenet *m, const void *scores, int k, mobilenet_class *best) {
    if (!scores || !best || k < 1 || mn_enter(m)) return 0;
    mn_floats before = mn_floats_begin();
    int have = best_of(m, scores, k, best);
    mn_floats_end(before);
    mn_leave(m);
    return have;
}
