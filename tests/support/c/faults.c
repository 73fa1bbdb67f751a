/* A disk that fails: LD_PRELOAD this, and the n-th call that changes something under a folder fails, or kills its process.
 *
 * FAULTS_STATE names a file of five 64-bit integers, which all processes share: the number of the call that fails (0:
 * none), how (0: that one alone; 1: all calls from it on that need room; 2: SIGKILL in its place), the error, how many
 * calls there were, how many failed. FAULTS_ROOT is the folder. Removing never fails: a full disk allows it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long long *state;
static const char *root;
static size_t root_length;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_STATE");
    root = getenv("FAULTS_ROOT");
    int fd = path && root ? REAL(open)(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    root_length = strlen(root);
    if (at != MAP_FAILED) state = at;
}

/* Whether this call fails; needs: it needs room. */
static int fails(int inside, int needs) {
    if (!state || !inside || !state[0]) return 0;
    long long number = __atomic_add_fetch(&state[3], 1, __ATOMIC_SEQ_CST);
    if (state[1] == 1 ? number < state[0] || !needs : number != state[0]) return 0;
    __atomic_add_fetch(&state[4], 1, __ATOMIC_SEQ_CST);
    if (state[1] == 2) kill(getpid(), SIGKILL), pause();
    errno = (int)state[2];
    return 1;
}

static int under(const char *path) {
    return !strncmp(path, root, root_length) && (!path[root_length] || path[root_length] == '/');
}

static int of_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!state) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    return n > 0 && (path[n] = 0, under(path));
}

static int of_path(int at, const char *path) {
    char here[PATH_MAX];
    if (!state || !path) return 0;
    if (*path == '/') return under(path);
    if (at != AT_FDCWD) return of_fd(at);
    return getcwd(here, sizeof here) && under(here);
}

static int opens(int at, const char *path, int flags) {
    struct stat there;
    if ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_CREAT)) return 0;
    return fails(of_path(at, path), (flags & O_CREAT) && fstatat(at, path, &there, 0));
}

#define MODE(flags, last) ({ va_list l; va_start(l, last); int m = (flags) & (O_CREAT | O_TMPFILE) ? va_arg(l, int) : 0; va_end(l); m; })
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        int mode = MODE(flags, flags); \
        return opens(AT_FDCWD, path, flags) ? -1 : REAL(name)(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        int mode = MODE(flags, flags); \
        return opens(at, path, flags) ? -1 : REAL(name)(at, path, flags, mode); \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

#define CALL(type, name, parameters, arguments, inside, needs) \
    type name parameters { return fails(inside, needs) ? -1 : REAL(name) arguments; }
CALL(ssize_t, write, (int fd, const void *data, size_t n), (fd, data, n), of_fd(fd), 1)
CALL(ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at), (fd, data, n, at), of_fd(fd), 1)
CALL(ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t at), (fd, data, n, at), of_fd(fd), 1)
CALL(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), of_fd(fd), 1)
CALL(ssize_t, sendfile, (int out, int in, off_t *at, size_t n), (out, in, at, n), of_fd(out), 1)
CALL(ssize_t, sendfile64, (int out, int in, off64_t *at, size_t n), (out, in, at, n), of_fd(out), 1)
CALL(ssize_t, copy_file_range, (int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags),
     (in, from, out, to, n, flags), of_fd(out), 1)
CALL(int, ftruncate, (int fd, off_t n), (fd, n), of_fd(fd), 0)
CALL(int, ftruncate64, (int fd, off64_t n), (fd, n), of_fd(fd), 0)
CALL(int, fsync, (int fd), (fd), of_fd(fd), 1)
CALL(int, fdatasync, (int fd), (fd), of_fd(fd), 1)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), of_path(AT_FDCWD, path), 1)
CALL(int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), of_path(at, path), 1)
CALL(int, link, (const char *from, const char *to), (from, to), of_path(AT_FDCWD, to), 1)
CALL(int, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), of_path(b, to), 1)
CALL(int, symlink, (const char *text, const char *to), (text, to), of_path(AT_FDCWD, to), 1)
CALL(int, symlinkat, (const char *text, int at, const char *to), (text, at, to), of_path(at, to), 1)
CALL(int, rename, (const char *from, const char *to), (from, to), of_path(AT_FDCWD, to), 0)
CALL(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), of_path(b, to), 0)
CALL(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags), of_path(b, to), 0)
