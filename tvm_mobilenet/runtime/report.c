/* The program's output, as text or as JSON. */
#include <stdio.h>

#include "report.h"

/* Bytes of the UTF-8 character that begins here; 0: none does. */
static int character(const unsigned char *s) {
    int n = *s < 0x80 ? 1 : *s >= 0xc2 && *s < 0xe0 ? 2 : *s >= 0xe0 && *s < 0xf0 ? 3 : *s >= 0xf0 && *s < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    int longer_than_needed = (*s == 0xe0 && s[1] < 0xa0) || (*s == 0xf0 && s[1] < 0x90);
    int outside = (*s == 0xed && s[1] > 0x9f) || (*s == 0xf4 && s[1] > 0x8f); /* surrogates; past the last */
    return longer_than_needed || outside ? 0 : n;
}

/* A string of JSON; NULL is null, and a byte that is no UTF-8 the character for such. */
static void text(const char *words) {
    const unsigned char *s = (const unsigned char *)words;
    if (!s) {
        fputs("null", stdout);
        return;
    }
    putchar('"');
    for (int n; *s; s += n ? n : 1) {
        n = character(s);
        if (!n) fputs("\\ufffd", stdout);
        else if (*s < 0x20 || *s == 0x7f) printf("\\u%04x", *s);
        else if (*s == '"' || *s == '\\') printf("\\%c", *s);
        else fwrite(s, 1, (size_t)n, stdout);
    }
    putchar('"');
}

static void about(const mobilenet_info *info) {
    printf("{\"model\": ");
    text(info->model);
    printf(", \"target\": ");
    text(info->target);
    printf(", \"build\": ");
    text(info->id);
    printf(", \"threads\": %d", info->threads);
}

void report_classes(const mobilenet_info *info, const char *file, const mobilenet_class *best, int n, int json) {
    if (json) {
        about(info);
        printf(", \"file\": ");
        text(file);
        printf(", \"seeded\": %s, \"scores\": ", info->seeded ? "true" : "false");
        text(info->scores);
        printf(", \"classes\": [");
    }
    for (int i = 0; i < n; i++) {
        const mobilenet_class *c = &best[i];
        if (json) {
            printf("%s{\"class\": %d, \"label\": ", i ? ", " : "", c->index);
            text(c->label);
            printf(", \"score\": %.9g, \"probability\": ", c->score);
            if (c->probability >= 0) printf("%.9g}", c->probability);
            else printf("null}");
            continue;
        }
        printf("%9.4f  ", c->score);
        if (c->probability >= 0) printf("%6.2f %%  ", 100.0 * c->probability);
        printf("%s %d%s%s\n", info->classes == 1 ? "output" : "class", c->index, c->label ? "  " : "", c->label ? c->label : "");
    }
    if (json) puts("]}");
}

void report_times(const mobilenet_info *info, const double *times, int runs, int json) {
    double fastest = times[0], median = times[runs / 2], slowest = times[runs - 1];
    if (!json) {
        printf("%s on %s, %d threads, %d runs: fastest %.3f ms, median %.3f ms, slowest %.3f ms\n", info->model, info->target,
               info->threads, runs, fastest, median, slowest);
        return;
    }
    about(info);
    printf(", \"runs\": %d, \"milliseconds\": {\"fastest\": %.9g, \"median\": %.9g, \"slowest\": %.9g}}\n", runs, fastest, median,
           slowest);
}

void report_selftest(const mobilenet_info *info, const mobilenet_selftest_result *r, int passed, int json) {
    if (!json) {
        printf("%s  %s for %s (%s): difference %.2e of the scale (allowed %.2e) on %d inputs, %.2f ms with %d threads, "
               "%.1f MB resident\n", passed ? "passed" : "WRONG", info->model, info->target, info->id, r->difference, r->allowed,
               r->samples, r->milliseconds, info->threads, (double)r->resident_bytes / 1e6);
        return;
    }
    about(info);
    printf(", \"passed\": %s, \"difference\": ", passed ? "true" : "false");
    if (r->difference <= 3.4e38f) printf("%.9g", r->difference);
    else printf("null"); /* an infinity: JSON has none */
    printf(", \"allowed\": %.9g, \"inputs\": %d, \"milliseconds\": %.9g, \"resident_bytes\": %zu}\n", r->allowed, r->samples,
           r->milliseconds, r->resident_bytes);
}

static void ports(const char *name, const mobilenet_tensor *t, int n) {
    printf(", \"%s\": [", name);
    for (int i = 0; i < n; i++, t++) {
        printf("%s{\"name\": ", i ? ", " : "");
        text(t->name);
        printf(", \"dtype\": \"%s\", \"shape\": [", t->dtype);
        for (int d = 0; d < t->dimensions; d++) printf("%s%lld", d ? ", " : "", (long long)t->shape[d]);
        printf("], \"bytes\": %zu", t->bytes);
        for (int s = 0; s < t->scales; s++) printf("%s%.17g", s ? ", " : ", \"scale\": [", t->scale[s]);
        for (int s = 0; s < t->scales; s++) printf("%s%.17g", s ? ", " : "], \"zero_point\": [", t->zero_point[s]);
        printf("%s}", t->scales ? "]" : "");
    }
    printf("]");
}

static void info_as_json(const mobilenet_info *info) {
    about(info);
    ports("inputs", info->input, info->inputs);
    ports("outputs", info->output, info->outputs);
    printf(", \"takes_images\": %s, \"image\": ", info->takes_images ? "true" : "false");
    text(info->preprocess);
    printf(", \"classes\": %d, \"scores\": ", info->classes);
    text(info->scores);
    printf(", \"labels_source\": ");
    text(info->labels ? info->labels_source : NULL);
    printf(", \"seeded\": %s, \"bytes\": {\"weights\": %zu, \"arena\": %zu, \"scratch\": %zu}}\n", info->seeded ? "true" : "false",
           info->weight_bytes, info->arena_bytes, info->scratch_bytes);
}

void report_info(const mobilenet_info *info, int json) {
    if (json) {
        info_as_json(info);
        return;
    }
    printf("model    %s\ntarget   %s\nbuild    %s\nthreads  %d\n", info->model, info->target, info->id, info->threads);
    for (int i = 0; i < info->inputs + info->outputs; i++) {
        const mobilenet_tensor *t = &info->input[i];
        printf("%s %s %s", i < info->inputs ? "input   " : "output  ", t->name, t->dtype);
        for (int d = 0; d < t->dimensions; d++) printf("%s%lld", d ? " x " : " ", (long long)t->shape[d]);
        printf(", %zu bytes", t->bytes);
        for (int s = 0; s < t->scales; s++)
            printf("%s(v - %.9g) * %.9g", s ? "; " : t->scales > 1 ? ", a channel stands for " : ", stands for ",
                   t->zero_point[s], t->scale[s]);
        puts("");
    }
    printf("image    %s\n", info->preprocess);
    if (info->classes) printf("classes  %d, scores: %s\n", info->classes, info->scores);
    else puts("classes  none");
    if (info->labels) printf("labels   %s\n", info->labels_source);
    if (info->seeded) printf("weights  %s\n", &REPORT_SEEDED[sizeof "weights are " - 1]);
    printf("memory   %zu bytes of weights, %zu of arena (scratch of a thread: %zu)\n", info->weight_bytes, info->arena_bytes,
           info->scratch_bytes);
}
