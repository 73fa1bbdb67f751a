/* .npy: a picture of uint8, or an input of the model. What is neither is refused, with how to make it one.
 *
 * numpy's header is a dict in Python's words, of three entries in any order. It is read as such a dict and as nothing else.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "picture.h"

enum { MOST_DIMENSIONS = 32 };

typedef struct {
    char order, kind;         /* '<', '>' or '|'; numpy's letter, 'f' 'i' 'u' … */
    int bytes, columns_first; /* of a number; Fortran's order */
    int dimensions;
    uint64_t shape[MOST_DIMENSIONS], count;
    const unsigned char *data;
} array;

/* ---- the header */

typedef struct {
    const char *at, *end;
} words;

static int next_is(words *w, const char *what) {
    size_t n = strlen(what);
    while (w->at < w->end && strchr(" \t\n", *w->at) && *w->at) w->at++;
    if ((size_t)(w->end - w->at) < n || memcmp(w->at, what, n)) return 0;
    w->at += n;
    return 1;
}

/* A word in quotes, at most `room` - 1 letters. */
static int quoted(words *w, char *word, size_t room) {
    const char *quote = next_is(w, "'") ? "'" : next_is(w, "\"") ? "\"" : NULL;
    size_t n = 0;
    for (; quote && w->at < w->end && *w->at != *quote && n + 1 < room; n++) word[n] = *w->at++;
    word[n] = 0;
    return quote && next_is(w, quote);
}

static int whole_number(words *w, uint64_t *value) {
    int digits = 0;
    (void)next_is(w, "");
    for (*value = 0; w->at < w->end && *w->at >= '0' && *w->at <= '9' && digits < 18; digits++) *value = *value * 10 + (uint64_t)(*w->at++ - '0');
    return digits > 0;
}

static int shape_of(words *w, array *a) {
    if (!next_is(w, "(")) return 0;
    for (a->dimensions = 0; !next_is(w, ")");) {
        if (a->dimensions == MOST_DIMENSIONS || !whole_number(w, &a->shape[a->dimensions++])) return 0;
        if (!next_is(w, ",")) return next_is(w, ")");
    }
    return 1;
}

/* NULL, or an error. */
static const char *header(const unsigned char *d, size_t n, array *a) {
    if (n < 12) return "it is cut off";
    if (d[6] < 1 || d[6] > 3) return "a .npy of a version that is not known: 1.0, 2.0 and 3.0 are";
    size_t begin = d[6] == 1 ? 10 : 12, length = d[8] | (size_t)d[9] << 8;
    if (begin == 12) length |= (size_t)d[10] << 16 | (size_t)d[11] << 24;
    if (length > n - begin) return "it is cut off";
    if (length > 10000) return "its header is too long";
    words w = {(const char *)d + begin, (const char *)d + begin + length};
    char key[16], dtype[16];
    int known = 0;
    if (!next_is(&w, "{")) return "its header is not a dict";
    while (!next_is(&w, "}")) {
        if (!quoted(&w, key, sizeof key) || !next_is(&w, ":")) return "its header is damaged";
        if (!strcmp(key, "descr")) {
            if (!quoted(&w, dtype, sizeof dtype)) return "it holds records, not numbers";
            const char *at = strchr("<>|=", *dtype) ? dtype : NULL; /* the order may be missing: this CPU's */
            a->order = at ? *at++ : '=';
            if (!at) at = dtype;
            if (!*dtype || !strchr("fiu", at[0]) || !at[0] || at[1] < '1' || at[1] > '8' || at[2]) return "it holds no numbers of 1, 2, 4 or 8 bytes";
            a->kind = at[0], a->bytes = at[1] - '0';
            known |= 1;
        } else if (!strcmp(key, "fortran_order")) {
            a->columns_first = next_is(&w, "True");
            if (!a->columns_first && !next_is(&w, "False")) return "its header is damaged";
            known |= 2;
        } else if (!strcmp(key, "shape") && shape_of(&w, a)) {
            known |= 4;
        } else {
            return "its header is damaged";
        }
        if (!next_is(&w, ",") && (w.at == w.end || *w.at != '}')) return "its header is damaged";
    }
    (void)next_is(&w, "");
    if (known != 7 || w.at != w.end) return "its header is damaged";
    if (!strchr("fiu", a->kind) || (a->bytes != 1 && a->bytes != 2 && a->bytes != 4 && a->bytes != 8) || (a->kind == 'f' && a->bytes == 1))
        return "it holds no numbers of 1, 2, 4 or 8 bytes";
    a->data = d + begin + length;
    a->count = 1;
    for (int i = 0; i < a->dimensions; i++)
        if (__builtin_mul_overflow(a->count, a->shape[i], &a->count) || a->count > UINT64_MAX / 8) return "its shape is too large";
    return NULL;
}

/* ---- pictures and inputs */

static void named_shape(char *to, size_t room, int dimensions, const uint64_t *shape) {
    size_t n = 0;
    *to = 0;
    for (int i = 0; i < dimensions && n < room; i++) n += (size_t)snprintf(to + n, room - n, "%s%" PRIu64, i ? " x " : "", shape[i]);
}

/* Numbers in C's order and this CPU's, of an array in either order of each. */
static void copied(const array *a, unsigned char *to) {
    uint64_t place[MOST_DIMENSIONS] = {0}, step[MOST_DIMENSIONS], at = 0, one = 1;
    int swap = a->bytes > 1 && (a->order == '>') != (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
    for (int i = 0; i < a->dimensions; i++) {
        int d = a->columns_first ? i : a->dimensions - 1 - i;
        step[d] = one;
        one *= a->shape[d];
    }
    for (uint64_t i = 0; i < a->count; i++, to += a->bytes) {
        const unsigned char *from = a->data + at * (uint64_t)a->bytes;
        for (int k = 0; k < a->bytes; k++) to[k] = from[swap ? a->bytes - 1 - k : k];
        for (int d = a->dimensions - 1; d >= 0; d--) {
            at += step[d];
            if (++place[d] < a->shape[d]) break;
            at -= step[d] * a->shape[d];
            place[d] = 0;
        }
    }
}

/* 1 of height x width x 3, or grey: height x width, height x width x 1. */
static int is_picture(const array *a) {
    uint64_t last = a->dimensions == 3 ? a->shape[2] : 1;
    return a->kind == 'u' && a->bytes == 1 && (a->dimensions == 2 || a->dimensions == 3) && (last == 1 || last == 3);
}

static int pixels_of(const array *a, picture *p) {
    uint64_t channels = a->dimensions == 3 ? a->shape[2] : 1;
    int code = picture_room(p, a->shape[1], a->shape[0], 4);
    if (code) return code;
    copied(a, p->rgb);
    for (uint64_t i = channels == 1 ? a->count : 0; i--;) memset(p->rgb + 3 * i, p->rgb[i], 3); /* from the end on, in place */
    return 0;
}

/* Whether two shapes have the same dimensions in another order. */
static int is_permuted(int n, const uint64_t *a, const int64_t *b) {
    uint32_t used = 0;
    for (int i = 0; i < n; i++) {
        int k = 0;
        while (k < n && (used >> k & 1 || a[i] != (uint64_t)b[k])) k++;
        if (k == n) return 0;
        used |= UINT32_C(1) << k;
    }
    return 1;
}

int picture_read_array(picture *p, const unsigned char *d, size_t n, const mobilenet_info *info, void *input) {
    const mobilenet_tensor *port = info->input;
    array a = {0};
    const char *damaged = header(d, n, &a), *hint = NULL;
    if (damaged) return picture_fail(p, PICTURE_FAILED, "%s", damaged);
    size_t left = n - (size_t)(a.data - d);
    if (a.count * (uint64_t)a.bytes != left)
        return picture_fail(p, PICTURE_FAILED, "it has %zu bytes of numbers, its shape wants %" PRIu64, left, a.count * (uint64_t)a.bytes);
    if (is_picture(&a) && info->takes_images) return pixels_of(&a, p);

    uint64_t wanted[MOST_DIMENSIONS];
    int dimensions = port->dimensions < MOST_DIMENSIONS ? port->dimensions : MOST_DIMENSIONS, same = 1;
    for (int i = 0; i < dimensions; i++) wanted[i] = (uint64_t)port->shape[i];
    int without_batch = a.dimensions == dimensions - 1 && dimensions && wanted[0] == 1; /* one input of a batch of one */
    if (a.dimensions != dimensions && !without_batch) same = 0;
    for (int i = 0; i < a.dimensions && same; i++) same = a.shape[i] == wanted[i + without_batch];
    char dtype[24], has[160], wants[160];
    snprintf(dtype, sizeof dtype, "%s%d", a.kind == 'f' ? "float" : a.kind == 'i' ? "int" : "uint", 8 * a.bytes);
    if (same && !strcmp(dtype, port->dtype)) return copied(&a, input), 0;

    named_shape(has, sizeof has, a.dimensions, a.shape);
    named_shape(wants, sizeof wants, dimensions, wanted);
    uint64_t last = a.dimensions ? a.shape[a.dimensions - 1] : 0;
    int bytes = !strcmp(dtype, "uint8"), rest = a.dimensions == dimensions && dimensions > 1;
    for (int i = 1; i < dimensions && rest; i++) rest = a.shape[i] == wanted[i];
    if (bytes && a.dimensions == 3 && info->takes_images && (last == 4 || last == 2)) hint = "drop the last channel, which is alpha";
    else if (bytes && a.dimensions == 3 && info->takes_images && (a.shape[0] == 3 || a.shape[0] == 1)) hint = "transpose(1, 2, 0) makes it a picture";
    else if (bytes && a.dimensions == 4 && info->takes_images && last == 3) hint = "save one picture alone; mobilenet.py takes batches";
    else if (same && bytes && info->takes_images) hint = "pixels are given as a picture";
    else if (same) hint = port->scales ? "`mobilenet info` tells the meaning of its integers" : "astype makes it the input's dtype";
    else if (rest) hint = "save one input alone; mobilenet.py takes batches";
    else if (a.dimensions == dimensions && is_permuted(dimensions, a.shape, port->shape)) hint = "transpose its axes, the channels' is elsewhere";
    return picture_fail(p, PICTURE_FAILED, "it holds %s of shape %s, the input is %s of %s%s%s%s", dtype, *has ? has : "()", port->dtype, wants,
                        info->takes_images ? "; a picture is uint8 of height x width x 3 or height x width" : "", hint ? ": " : "", hint ? hint : "");
}
