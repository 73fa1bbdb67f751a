/* The files of a bundle's folder: the manifest (JSON, its own hash beside it) names size and hash of all others.
 *
 * A folder is opened once, and its files through it. So an exchange of the folder meanwhile has no effect, and the
 * manifest of one bundle is never combined with the weights of another. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

static const char empty[] = "an empty path: the working directory is \".\""; /* or it would be a file of the root */
enum { MOST_MANIFEST = 4 << 20, MOST_LABELS = 16 << 20, MOST_DEPTH = 32 };

char *mn_absolute(const char *path) {
    char here[4096], *found;
    if (*path == '/' || !getcwd(here, sizeof here)) return strdup(path); /* there may be no such directory any more */
    size_t before = strlen(here), after = strlen(path) + 1;
    if ((found = malloc(before + 1 + after))) {
        memcpy(found, here, before);
        found[before] = '/';
        memcpy(found + before + 1, path, after);
    }
    return found;
}

int mn_folder_open(mn_folder *f, const char *path) {
    f->path = path;
    if (!*path) return mn_fail(MOBILENET_ARGUMENT, "%s", empty);
    f->at = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return f->at < 0 ? mn_fail(MOBILENET_FILE, "%s: %s", path, strerror(errno)) : 0;
}

void mn_folder_close(mn_folder *f) { close(f->at); }

/* A file of a folder, or of any path without a folder. */
static int open_file(const mn_folder *folder, const char *name, int *descriptor, uint64_t *bytes) {
    struct stat status;
    const char *before = folder ? folder->path : "", *slash = folder ? "/" : "";
    if (!*name) return mn_fail(MOBILENET_ARGUMENT, "%s", empty);
    *descriptor = openat(folder ? folder->at : AT_FDCWD, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* waits for no pipe */
    if (*descriptor < 0) return mn_fail(MOBILENET_FILE, "%s%s%s: %s", before, slash, name, strerror(errno));
    if (fstat(*descriptor, &status) || !S_ISREG(status.st_mode)) {
        close(*descriptor);
        return mn_fail(MOBILENET_FILE, "%s%s%s is not a file", before, slash, name);
    }
    *bytes = (uint64_t)status.st_size;
    return 0;
}

/* The number of bytes read, of n. */
static size_t read_all(int descriptor, char *to, size_t n) {
    size_t have = 0;
    while (have < n) {
        ssize_t got = read(descriptor, to + have, n - have);
        if (got > 0) have += (size_t)got;
        else if (!got || errno != EINTR) break;
    }
    return have;
}

int mn_read(const mn_folder *folder, const char *name, size_t most, char **text, size_t *n) {
    int descriptor, code;
    uint64_t bytes, have;
    if ((code = open_file(folder, name, &descriptor, &bytes))) return code;
    if (bytes > most || !(*text = malloc((size_t)bytes + 1))) {
        close(descriptor);
        return mn_fail(MOBILENET_CORRUPT, "%s has %llu bytes", name, (unsigned long long)bytes);
    }
    have = read_all(descriptor, *text, (size_t)bytes);
    close(descriptor);
    (*text)[have] = 0;
    *n = (size_t)have;
    if (have == bytes) return 0;
    free(*text);
    return mn_fail(MOBILENET_FILE, "%s cannot be read", name);
}

/* ---- as much of JSON as the manifest needs */

typedef struct {
    const char *at, *end;
} json;

static int peek(json *j) {
    while (j->at < j->end && strchr(" \t\r\n", *j->at) && *j->at) j->at++;
    return j->at < j->end ? *j->at : 0;
}

static int accept(json *j, char c) { return peek(j) == c ? (j->at++, 1) : 0; }

/* A string; escapes are kept, since no name or hash has one. A longer string is cut. */
static int string(json *j, char *out, size_t n) {
    size_t have = 0;
    if (!accept(j, '"')) return 0;
    for (; j->at < j->end && *j->at != '"'; j->at++) {
        if (*j->at == '\\' && ++j->at == j->end) return 0;
        if (have + 1 < n) out[have++] = *j->at;
    }
    if (n) out[have] = 0;
    return accept(j, '"');
}

static int skip(json *j, int depth) {
    int c = peek(j), close = c == '{' ? '}' : ']';
    if (c == '"') return string(j, NULL, 0);
    if (c != '{' && c != '[') {
        const char *start = j->at;
        while (j->at < j->end && *j->at && !strchr(",]} \t\r\n", *j->at)) j->at++;
        return j->at > start;
    }
    j->at++;
    if (depth > MOST_DEPTH) return 0;
    if (accept(j, close)) return 1;
    do {
        if (c == '{' && !(string(j, NULL, 0) && accept(j, ':'))) return 0;
        if (!skip(j, depth + 1)) return 0;
    } while (accept(j, ','));
    return accept(j, close);
}

static int integer(json *j, uint64_t *value) {
    int digits = 0;
    for (peek(j), *value = 0; j->at < j->end && *j->at >= '0' && *j->at <= '9'; j->at++) {
        if (++digits > 18) return 0;
        *value = *value * 10 + (uint64_t)(*j->at - '0');
    }
    return digits > 0;
}

/* Moves to the value of a key of the object at j; 0: it has none. */
static int find(json *j, const char *key) {
    char name[128];
    if (!accept(j, '{')) return 0;
    do {
        if (!string(j, name, sizeof name) || !accept(j, ':')) return 0;
        if (!strcmp(name, key)) return 1;
        if (!skip(j, 0)) return 0;
    } while (accept(j, ','));
    return 0;
}

/* ---- the files */

static int check_file(const mn_folder *folder, const char *name, uint64_t bytes, const char *sha256, int hash) {
    int descriptor, code;
    uint64_t found;
    if (!*name || strchr(name, '/') || *name == '.' || strlen(sha256) != 64)
        return mn_fail(MOBILENET_CORRUPT, "the manifest names a file %s", name);
    if ((code = open_file(folder, name, &descriptor, &found))) return code;
    if (found != bytes)
        code = mn_fail(MOBILENET_CORRUPT, "%s has %llu bytes, built were %llu: copy the bundle again", name,
                       (unsigned long long)found, (unsigned long long)bytes);
    if (hash && !code) {
        char block[16384], hex[65];
        ssize_t n;
        mn_sha256 s;
        mn_sha256_begin(&s);
        while ((n = read(descriptor, block, sizeof block)) > 0) mn_sha256_add(&s, block, (size_t)n);
        mn_sha256_end(&s, hex);
        if (strcmp(hex, sha256))
            code = mn_fail(MOBILENET_CORRUPT, "%s is not the file that was built: its hash differs; copy the bundle again",
                           name);
    }
    close(descriptor);
    return code;
}

static int check_manifest(const mn_folder *folder, const char *text, size_t n, int hash) {
    json j = {text, text + n};
    char id[65], name[128], key[32], sha256[72];
    uint64_t bytes = 0;
    int code = 0;
    if (!find(&j, "id") || !string(&j, id, sizeof id) || strcmp(id, mn_model.id))
        return mn_fail(MOBILENET_CORRUPT, "the manifest is of another build than the library (%s); if the bundle was replaced "
                       "just now, start the program again", mn_model.id);
    j.at = text;
    if (!find(&j, "files") || !accept(&j, '{')) return mn_fail(MOBILENET_CORRUPT, "the manifest names no files");
    do {
        int known = 0;
        if (!string(&j, name, sizeof name) || !accept(&j, ':') || !accept(&j, '{')) known = -9;
        do {
            if (known < 0 || !string(&j, key, sizeof key) || !accept(&j, ':')) known = -9;
            else if (!strcmp(key, "bytes")) known = integer(&j, &bytes) ? known | 1 : -9;
            else if (!strcmp(key, "sha256")) known = string(&j, sha256, sizeof sha256) ? known | 2 : -9;
            else if (!skip(&j, 0)) known = -9;
        } while (known >= 0 && accept(&j, ','));
        if (known != 3 || !accept(&j, '}')) return mn_fail(MOBILENET_CORRUPT, "the manifest's list of files is broken");
        if ((code = check_file(folder, name, bytes, sha256, hash))) return code;
    } while (accept(&j, ','));
    return 0;
}

int mn_folder_check(const mn_folder *folder, int hash) {
    char *manifest = NULL, *expected = NULL, hex[65];
    size_t n, m;
    mn_sha256 s;
    int code = mn_read(folder, "manifest.json", MOST_MANIFEST, &manifest, &n);
    if (code) return code;
    if (!(code = mn_read(folder, "manifest.sha256", 4096, &expected, &m))) {
        mn_sha256_begin(&s);
        mn_sha256_add(&s, manifest, n);
        mn_sha256_end(&s, hex);
        code = m < 64 || memcmp(hex, expected, 64)
                   ? mn_fail(MOBILENET_CORRUPT, "manifest.json is not the one that was built: its hash differs")
                   : check_manifest(folder, manifest, n, hash);
        free(expected);
    }
    free(manifest);
    return code;
}

int mobilenet_check(const char *path) {
    mn_folder folder;
    int code = path ? mn_folder_open(&folder, path) : mn_fail(MOBILENET_ARGUMENT, "no folder");
    if (code) return code;
    code = mn_folder_check(&folder, 1);
    mn_folder_close(&folder);
    return code;
}

/* The bytes of a file: mapped, or a copy in memory, which no other process can change or remove. */
static int hold(mn_files *f, const char *name, int descriptor, size_t bytes, int map) {
    int flags = MAP_PRIVATE | (map ? 0 : MAP_ANONYMOUS | MAP_POPULATE), code = 0;
    void *at = mmap(NULL, bytes, map ? PROT_READ : PROT_READ | PROT_WRITE, flags, map ? descriptor : -1, 0);
    if (at == MAP_FAILED)
        return mn_fail(MOBILENET_MEMORY, "%s: no memory for its %zu bytes: %s", name, bytes, strerror(errno));
    f->mapped = at;
    f->mapped_bytes = bytes;
    if (map) return 0;
    size_t have = read_all(descriptor, at, bytes);
    if (have != bytes)
        code = mn_fail(MOBILENET_FILE, "%s cannot be read: of %zu bytes %zu were there; copy the bundle again", name, bytes,
                       have);
    else if (mprotect(at, bytes, PROT_READ)) /* as of the file itself: a stray write of the program ends it */
        code = mn_fail(MOBILENET_MEMORY, "%s cannot be protected: %s", name, strerror(errno));
    return code;
}

/* A file of weights; bare: it may be without its header. */
static int open_weights(mn_files *f, const mn_folder *folder, const char *name, int bare, int map) {
    int descriptor, code;
    uint64_t bytes, payload;
    if (mn_model.embedded) {
        f->weights = mn_model.embedded;
        return 0;
    }
    if ((code = open_file(folder, name, &descriptor, &bytes))) return code;
    if (bare && !bytes && !mn_model.parameter_bytes) {
        close(descriptor);
        return 0;
    }
    if (bytes != MN_WEIGHTS_HEADER + mn_model.parameter_bytes && !(bare && bytes == mn_model.parameter_bytes)) {
        close(descriptor);
        return mn_fail(MOBILENET_CORRUPT, "%s has %llu bytes, the model needs %llu", name, (unsigned long long)bytes,
                       (unsigned long long)(MN_WEIGHTS_HEADER * !bare + mn_model.parameter_bytes));
    }
    code = hold(f, name, descriptor, (size_t)bytes, map);
    close(descriptor);
    if (code) return code;
    if (bytes == mn_model.parameter_bytes) {
        f->weights = f->mapped;
        return 0;
    }
    const unsigned char *header = f->mapped;
    char hex[65];
    for (int i = 0; i < 64; i++) hex[i] = "0123456789abcdef"[header[16 + i / 2] >> (i % 2 ? 0 : 4) & 15];
    hex[64] = 0;
    memcpy(&payload, header + 8, 8);
    if (memcmp(header, "MNWEIGH1", 8) || payload != mn_model.parameter_bytes || strcmp(hex, mn_model.weights_sha256))
        return mn_fail(MOBILENET_CORRUPT, "%s is of another model than the library", name);
    f->weights = header + MN_WEIGHTS_HEADER;
    return 0;
}

static int read_labels(mn_files *f, const mn_folder *folder) {
    size_t n;
    int lines = 0, code = mn_read(folder, "labels.txt", MOST_LABELS, &f->label_text, &n);
    if (code) return f->label_text = NULL, code;
    f->labels = calloc((size_t)mn_model.classes + 1, sizeof *f->labels);
    if (!f->labels) return mn_fail(MOBILENET_MEMORY, "no memory for labels");
    for (char *at = f->label_text, *end = at + n; at < end; lines++) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        if (lines < mn_model.classes) f->labels[lines] = at;
        at = stop ? stop + 1 : end;
        if (stop) *stop = 0;
    }
    if (lines == mn_model.classes) return 0;
    return mn_fail(MOBILENET_CORRUPT, "labels.txt has %d lines for %d classes", lines, mn_model.classes);
}

int mn_files_open(mn_files *f, const char *path, int map_weights) {
    mn_folder folder;
    int code = mn_folder_open(&folder, path);
    if (code) return code;
    code = mn_folder_check(&folder, 0);
    if (!code) code = open_weights(f, &folder, "weights.bin", 0, map_weights);
    if (!code && mn_model.has_labels) code = read_labels(f, &folder);
    mn_folder_close(&folder);
    return code;
}

int mn_files_open_weights(mn_files *f, const char *path, int map_weights) {
    return open_weights(f, NULL, path, 1, map_weights);
}

void mn_files_close(mn_files *f) {
    if (f->mapped) munmap(f->mapped, f->mapped_bytes);
    free(f->labels);
    free(f->label_text);
}
