/* The program's reading of files, alone. Built with sanitizers, which end it at the first mistake.
 *
 *     pictures read BYTES IMAGES DTYPE SHAPE FILE...   what becomes of each file: a line, then its pixels or numbers
 *     pictures fuzz ROUNDS SEED FILE...                damaged copies of the files; prints how many were read after all
 *
 * BYTES: memory that pixels may take; IMAGES: whether the model takes any; SHAPE: of its input, as 1,3,8,8.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "picture.h"

static uint64_t state;
static uint32_t draw(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static unsigned char *file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) exit(3);
    *n = (size_t)ftell(f);
    rewind(f);
    unsigned char *data = malloc(*n + 1);
    if (fread(data, 1, *n, f) != *n) exit(3);
    fclose(f);
    data[*n] = 0;
    return data;
}

static int64_t shape[8];
static mobilenet_tensor port = {.name = "x", .shape = shape};
static mobilenet_info info = {.inputs = 1, .input = &port};

static void input_of(int images, const char *dtype, const char *words) {
    info.takes_images = images;
    port.dtype = dtype;
    port.bytes = strstr(dtype, "32") ? 4 : strstr(dtype, "16") ? 2 : 1;
    for (port.dimensions = 0; words && port.dimensions < 8; port.dimensions++) {
        shape[port.dimensions] = atoll(words);
        port.bytes *= (size_t)shape[port.dimensions];
        words = strchr(words, ',') ? strchr(words, ',') + 1 : NULL;
    }
}

static void read_all(int n, char **paths, size_t most) {
    for (int i = 0; i < n; i++) {
        size_t size;
        unsigned char *data = file(paths[i], &size), *input = malloc(port.bytes);
        picture p = {.most_bytes = most};
        int code = picture_read(&p, data, size, &info, input);
        if (code) printf("failed %d %s\n", code, code < 0 ? "" : p.why);
        else if (p.rgb) printf("picture %d %d %s\n", p.width, p.height, p.why), fwrite(p.rgb, 3, (size_t)p.width * (size_t)p.height, stdout);
        else printf("input\n"), fwrite(input, 1, port.bytes, stdout);
        free(p.rgb);
        free(data);
        free(input);
    }
}

/* ---- damage */

static uint32_t crc(const unsigned char *d, size_t n) {
    uint32_t c = ~0u;
    while (n--) {
        c ^= *d++;
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (0xedb88320u & -(c & 1));
    }
    return ~c;
}

/* Makes the sums of a .png's chunks right again, so that what is in them is looked at. */
static void sealed(unsigned char *d, size_t n) {
    for (size_t at = 8; at + 12 <= n;) {
        size_t length = (size_t)d[at] << 24 | (size_t)d[at + 1] << 16 | (size_t)d[at + 2] << 8 | d[at + 3];
        if (length > n - at - 12) return;
        uint32_t sum = crc(d + at + 4, length + 4);
        for (int k = 0; k < 4; k++) d[at + 8 + length + (size_t)k] = (unsigned char)(sum >> (24 - 8 * k));
        at += length + 12;
    }
}

static size_t damaged(unsigned char *d, size_t n, size_t room) {
    static const char *words[] = {"P5\n", "99999999 ", "65535\n", "#", "\r\n", "(", "1, ", "True", "'<f8'", "'shape': ", "{", "}",
                                  "\xff\xda", "\xff\xd9", "\xff\xc2", "\xff\xe1", "Exif", "II*", "eXIf", "tRNS", "\xff\xff\xff\xff"};
    for (int k = 1 + (int)draw(4); k--;) {
        size_t head = draw(2) || n < 64 ? n : 64, at = draw((uint32_t)head + 1), length = draw(12);
        switch (draw(5)) {
        case 0: if (at < n) d[at] = (unsigned char)draw(256); break;
        case 1: if (!draw(4)) n = at; break;
        case 2: if (at + length <= n) memmove(d + at, d + at + length, n - at - length), n -= length; break;
        case 3: {
            const char *w = words[draw(sizeof words / sizeof *words)];
            size_t m = strlen(w);
            if (at + m <= n) memcpy(d + at, w, m);
            break;
        }
        default: if (at + length < n && n + length < room) memmove(d + at + length, d + at, n - at), n += length;
        }
    }
    if (n > 8 && d[1] == 'P' && draw(4)) sealed(d, n);
    return n;
}

static void fuzz(int n, char **paths, int rounds) {
    enum { ROOM = 64, MOST = 1 << 22 };
    size_t size, read = 0;
    for (int round = 0; round < rounds; round++) {
        unsigned char *whole = file(paths[round % n], &size), *room = malloc(size + ROOM);
        memcpy(room, whole, size);
        size_t left = damaged(room, size, size + ROOM);
        unsigned char *data = malloc(left + !left), *input = malloc(port.bytes); /* of its very size: a byte more is a mistake */
        memcpy(data, room, left);
        picture p = {.most_bytes = MOST};
        int code = picture_read(&p, data, left, &info, input);
        if (code == PICTURE_NO_PACKAGE) printf("%s\n", p.why), exit(4);
        if (code ? p.rgb || (code > 0 && !*p.why) : p.rgb && (p.width < 1 || p.height < 1)) abort();
        if (!code && p.rgb) {
            size_t bytes = 3 * (size_t)p.width * (size_t)p.height;
            if (bytes > MOST) abort();
            for (size_t i = 0, sum = 0; i < bytes; i++) sum += p.rgb[i], state += sum == SIZE_MAX;
        }
        read += !code;
        free(p.rgb);
        free(data);
        free(input);
        free(room);
        free(whole);
    }
    printf("%zu read\n", read);
}

int main(int argc, char **argv) {
    if (argc > 6 && !strcmp(argv[1], "read")) {
        input_of(atoi(argv[3]), argv[4], argv[5]);
        read_all(argc - 6, argv + 6, (size_t)atoll(argv[2]));
    } else if (argc > 4 && !strcmp(argv[1], "fuzz")) {
        input_of(1, "float32", "1,3,5,4");
        state = strtoull(argv[3], NULL, 10);
        fuzz(argc - 4, argv + 4, atoi(argv[2]));
    } else {
        return 2;
    }
    return 0;
}
