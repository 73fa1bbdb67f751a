/* Opens a folder whose manifest, hash, labels or weights' header were changed at random, again and again; built with
 * sanitizers, which end the program at the first mistake. argv: folder to change, rounds, seed */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

static uint64_t state;
static uint32_t draw(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static void put(const char *folder, const char *name, const void *data, size_t n) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, strcmp(name, "weights.bin") ? "wb" : "r+b"); /* of the weights only the header is changed */
    if (!f || fwrite(data, 1, n, f) != n) abort();
    fclose(f);
}

static size_t change(char *d, size_t n, size_t room) {
    static const char *words[] = {"{", "}", "[", "\"", "\\", ":", ",", "99999999999999999999", "-1", "{\"a\":", "[[[[[[[[",
                                  "\"files\"", "\"id\"", "../", "\n\n\n", "\\u00", "true"};
    for (int k = 1 + (int)draw(6); k--;) {
        size_t at = draw((uint32_t)n + 1), length = draw(40);
        switch (draw(5)) {
        case 0: if (at < n) d[at] = (char)draw(256); break;
        case 1: n = at; break;
        case 2: if (at + length <= n) memmove(d + at, d + at + length, n - at - length), n -= length; break;
        case 3: {
            const char *w = words[draw(sizeof words / sizeof *words)];
            size_t m = strlen(w), times = 1 + (draw(20) == 0 ? draw(60) : 0);
            for (; times-- && n + m < room; n += m) memmove(d + at + m, d + at, n - at), memcpy(d + at, w, m);
            break;
        }
        default: if (at + length < n && n + length < room) memmove(d + at + length, d + at, n - at), n += length;
        }
        if (!n) n = 1;
    }
    return n;
}

int main(int argc, char **argv) {
    static const char *names[] = {"manifest.json", "labels.txt", "weights.bin", "manifest.sha256"};
    char *original[4], *copy, hex[65];
    size_t size[4], opened = 0;
    if (argc < 4) return 2;
    mn_folder folder;
    if (mn_folder_open(&folder, argv[1])) return 3;
    for (int i = 0; i < 4; i++)
        if (mn_read(&folder, names[i], SIZE_MAX / 4, &original[i], &size[i])) return 3;
    mn_folder_close(&folder);
    state = strtoull(argv[3], NULL, 10);
    for (int i = 0; i < atoi(argv[2]); i++) {
        int which = draw(8) < 6 ? 0 : 1 + (int)draw(3);
        size_t n = which == 2 ? 64 : size[which], room = n + 65536;
        copy = malloc(room);
        memcpy(copy, original[which], n);
        n = change(copy, n, room);
        if (which == 2) n = 64;
        put(argv[1], names[which], copy, n);
        if (!which) {
            mn_sha256 s;
            mn_sha256_begin(&s);
            mn_sha256_add(&s, copy, n);
            mn_sha256_end(&s, hex);
            put(argv[1], "manifest.sha256", hex, 64);
        }
        free(copy);
        mn_files f = {0};
        if (!mn_files_open(&f, argv[1], i % 2)) opened++;
        mn_files_close(&f);
        put(argv[1], names[which], original[which], which == 2 ? 64 : size[which]);
        if (!which) put(argv[1], "manifest.sha256", original[3], size[3]);
    }
    for (int i = 0; i < 4; i++) free(original[i]);
    printf("%zu opened\n", opened);
    return 0;
}
