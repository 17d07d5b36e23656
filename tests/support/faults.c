/* Loaded before libc (LD_PRELOAD): a wall clock that is off, and a disk that is slow or refuses.
 *
 * FAULTS_FILE is shared by all processes of a test: six int64 in the order of `struct faults`. Disk faults hold for
 * files below FAULTS_UNDER alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct faults {
    volatile int64_t clock_offset_ns, sync_delay_us, write_errno, sync_errno, open_errno, syncs;
};

static struct faults none, *faults = &none;
static const char *under = "";

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("FAULTS_FILE"), *folder = getenv("FAULTS_UNDER");
    int descriptor = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (folder) under = folder;
    if (descriptor < 0) return;
    void *mapped = mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (mapped != MAP_FAILED) faults = mapped;
    close(descriptor);
}

/* The function of this name that would have been called without us. */
#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })

static int ours(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0 || !*under) return 0;
    path[size] = 0;
    return strncmp(path, under, strlen(under)) == 0;
}

static int refused(int descriptor, int64_t error) {
    if (!error || !ours(descriptor)) return 0;
    errno = (int)error;
    return 1;
}

ssize_t write(int fd, const void *data, size_t size) {
    return refused(fd, faults->write_errno) ? -1 : REAL(write)(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    return refused(fd, faults->write_errno) ? -1 : REAL(pwrite)(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    return refused(fd, faults->write_errno) ? -1 : REAL(pwrite64)(fd, data, size, at);
}

int ftruncate(int fd, off_t size) {
    return refused(fd, faults->write_errno) ? -1 : REAL(ftruncate)(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    return refused(fd, faults->write_errno) ? -1 : REAL(ftruncate64)(fd, size);
}

static int synced(int fd, int (*real)(int)) {
    if (refused(fd, faults->sync_errno)) return -1;
    if (ours(fd)) {
        if (faults->sync_delay_us) usleep((useconds_t)faults->sync_delay_us);
        __sync_fetch_and_add(&faults->syncs, 1);
    }
    return real(fd);
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }

int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

static int opened(const char *path, int flags, mode_t mode, int (*real)(const char *, int, ...)) {
    if (faults->open_errno && (flags & O_ACCMODE) != O_RDONLY && *under && !strncmp(path, under, strlen(under))) {
        errno = (int)faults->open_errno;
        return -1;
    }
    return real(path, flags, mode);
}

#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                         \
        return opened(path, flags, mode, REAL(name));                         \
    }

OPEN(open)
OPEN(open64)

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = REAL(clock_gettime)(clock, at);
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return failed;
    int64_t ns = (int64_t)at->tv_sec * 1000000000 + at->tv_nsec + faults->clock_offset_ns;
    at->tv_sec = ns / 1000000000;
    at->tv_nsec = ns % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
