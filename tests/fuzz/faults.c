/* Counts the calls of a process about files below a folder, and has one of them fail, or something else happen before it.

   `fault_begin` is called in the process when its command begins. Kinds, and the calls that they count:
   'S' no space (those that write), 'A' no permission (those with a path), 'E' input or output error (all but those of
   signals), 'I' interrupted (open, read, write), 'K' SIGKILL, 'T' SIGTERM, 'L' a link in place of a file (all), '-' none. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH = 1, WRITES = 2, RESTARTS = 4 };
static char folder[PATH_MAX], target[PATH_MAX], victim[PATH_MAX];
static char kind = '-';
static int persists, armed;
static long wanted, seen;
static char opened[4096]; /* by descriptor: whether it is of a file below the folder */

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = dlsym(RTLD_NEXT, name)

void fault_begin(const char *below, char what, long number, int lasts, const char *replaced, const char *by) {
    snprintf(folder, sizeof folder, "%s", below);
    snprintf(target, sizeof target, "%s", replaced);
    snprintf(victim, sizeof victim, "%s", by);
    kind = what, wanted = number, persists = lasts, seen = 0, armed = 1;
}

long fault_seen(void) { return seen; }

static int is_below(const char *path) {
    char whole[PATH_MAX];
    if (!armed || !path) return 0;
    if (path[0] != '/') { /* from the working folder, which is the folder or below it, or a descriptor's */
        if (!getcwd(whole, sizeof whole)) return 0;
        return strncmp(whole, folder, strlen(folder)) == 0;
    }
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int is_of_kind(int what) {
    switch (kind) {
    case 'S': return what & WRITES;
    case 'A': return what & PATH;
    case 'I': return what & RESTARTS;
    default: return 1;
    }
}

/* Whether the call fails; `errno` then says how. */
static int fails(int ours, int what) {
    if (!armed || !ours || !is_of_kind(what)) return 0;
    seen++;
    if (seen < wanted || (seen > wanted && !(persists && kind == 'S'))) return 0;
    switch (kind) {
    case 'S': errno = ENOSPC; return 1;
    case 'A': errno = EACCES; return 1;
    case 'E': errno = EIO; return 1;
    case 'I': errno = EINTR; return 1;
    case 'K': kill(getpid(), SIGKILL); return 0;
    case 'T': kill(getpid(), SIGTERM); return 0;
    case 'L': {
        char aside[PATH_MAX + 8];
        snprintf(aside, sizeof aside, "%s.aside", target);
        armed = 0;
        rename(target, aside);
        if (symlink(victim, target)) {} /* its folder may not be there */
        armed = 1;
        return 0;
    }
    }
    return 0;
}

static void note(int descriptor, int ours) {
    if (descriptor >= 0 && descriptor < (int)sizeof opened) opened[descriptor] = ours;
}

static int of(int descriptor) { return descriptor >= 0 && descriptor < (int)sizeof opened && opened[descriptor]; }

static int writes(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) ? WRITES : 0; }

#define MODE mode_t mode = 0; if (flags & O_CREAT) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
#define OPEN(name, text) \
    int name(const char *path, int flags, ...) { \
        MODE REAL(int, text, const char *, int, mode_t); \
        int ours = is_below(path); \
        if (fails(ours, PATH | RESTARTS | writes(flags))) return -1; \
        int made = real(path, flags, mode); \
        note(made, ours); \
        return made; \
    }
OPEN(open, "open")
OPEN(open64, "open64")
#define OPENAT(name, text) \
    int name(int at, const char *path, int flags, ...) { \
        MODE REAL(int, text, int, const char *, int, mode_t); \
        int ours = is_below(path) || of(at); \
        if (fails(ours, PATH | RESTARTS | writes(flags))) return -1; \
        int made = real(at, path, flags, mode); \
        note(made, ours); \
        return made; \
    }
OPENAT(openat, "openat")
OPENAT(openat64, "openat64")

/* Calls by path. */
#define BY_PATH(name, what, parameters, names, types) \
    int name parameters { \
        REAL(int, #name, types); \
        if (fails(is_below(path), PATH | what)) return -1; \
        return real names; \
    }
#define COMMA ,
BY_PATH(unlink, WRITES, (const char *path), (path), const char *)
BY_PATH(rmdir, WRITES, (const char *path), (path), const char *)
BY_PATH(mkdir, WRITES, (const char *path, mode_t mode), (path, mode), const char * COMMA mode_t)
BY_PATH(truncate64, WRITES, (const char *path, off64_t size), (path, size), const char * COMMA off64_t)
BY_PATH(chmod, WRITES, (const char *path, mode_t mode), (path, mode), const char * COMMA mode_t)
BY_PATH(stat64, 0, (const char *path, struct stat64 *found), (path, found), const char * COMMA struct stat64 *)
BY_PATH(lstat64, 0, (const char *path, struct stat64 *found), (path, found), const char * COMMA struct stat64 *)
BY_PATH(access, 0, (const char *path, int mode), (path, mode), const char * COMMA int)
BY_PATH(rename, WRITES, (const char *path, const char *to), (path, to), const char * COMMA const char *)
BY_PATH(link, WRITES, (const char *path, const char *to), (path, to), const char * COMMA const char *)
int unlinkat(int at, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    if (fails(is_below(path) || of(at), PATH | WRITES)) return -1;
    return real(at, path, flags);
}
int renameat(int at, const char *path, int to_at, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    if (fails(is_below(path) || of(at), PATH | WRITES)) return -1;
    return real(at, path, to_at, to);
}
int fstatat64(int at, const char *path, struct stat64 *found, int flags) {
    REAL(int, "fstatat64", int, const char *, struct stat64 *, int);
    if (fails(is_below(path) || of(at), PATH)) return -1;
    return real(at, path, found, flags);
}
DIR *opendir(const char *path) {
    REAL(DIR *, "opendir", const char *);
    return fails(is_below(path), PATH) ? NULL : real(path);
}

/* Calls by descriptor. */
#define BY_DESCRIPTOR(type, name, what, parameters, names, types) \
    type name parameters { \
        REAL(type, #name, types); \
        if (fails(of(fd), what)) return -1; \
        return real names; \
    }
BY_DESCRIPTOR(ssize_t, read, RESTARTS, (int fd, void *data, size_t size), (fd, data, size), int COMMA void * COMMA size_t)
BY_DESCRIPTOR(ssize_t, write, WRITES | RESTARTS, (int fd, const void *data, size_t size), (fd, data, size),
              int COMMA const void * COMMA size_t)
BY_DESCRIPTOR(ssize_t, pread64, RESTARTS, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at),
              int COMMA void * COMMA size_t COMMA off64_t)
BY_DESCRIPTOR(ssize_t, pwrite64, WRITES, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at),
              int COMMA const void * COMMA size_t COMMA off64_t)
BY_DESCRIPTOR(int, fsync, WRITES, (int fd), (fd), int)
BY_DESCRIPTOR(int, ftruncate64, WRITES, (int fd, off64_t size), (fd, size), int COMMA off64_t)
BY_DESCRIPTOR(int, fstat64, 0, (int fd, struct stat64 *found), (fd, found), int COMMA struct stat64 *)
int close(int fd) {
    REAL(int, "close", int);
    note(fd, 0);
    return real(fd);
}
