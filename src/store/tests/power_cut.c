/* A disk that forgets what was not synced, for the process into which this library is preloaded.
 *
 * Beside the directory HAIMA_POWER_CUT_DISK, which the process writes as usual, HAIMA_POWER_CUT_LEFT holds what a power cut would
 * leave of it: the content of each file as of its last fsync, under a number, and in `names` which file has which name as of
 * the last fsync of the directory. With HAIMA_POWER_CUT_DEAF set no fsync does anything.
 *
 * Files are taken to be appended to only, as those of RocksDB are. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The number of a file, for as long as it exists. */
struct file {
    ino_t inode;
    unsigned number;
    struct file *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file *files;
static unsigned numbers;
static char disk[PATH_MAX];
static const char *left;
static int is_deaf;

static void fail(const char *what) {
    perror(what);
    abort();
}

static unsigned number_of(ino_t inode) {
    for (struct file *file = files; file; file = file->next)
        if (file->inode == inode) return file->number;
    struct file *file = malloc(sizeof *file);
    if (!file) fail("malloc");
    *file = (struct file){inode, ++numbers, files};
    files = file;
    return file->number;
}

/* The file is gone, and its inode may become another's. */
static void forget(ino_t inode) {
    for (struct file **at = &files; *at; at = &(*at)->next) {
        if ((*at)->inode != inode) continue;
        struct file *gone = *at;
        *at = gone->next;
        free(gone);
        return;
    }
}

static void keep_content(const char *path, const struct stat *now) {
    char kept[PATH_MAX], bytes[1 << 16];
    snprintf(kept, sizeof kept, "%s/%u", left, number_of(now->st_ino));
    int from = open(path, O_RDONLY), to = open(kept, O_WRONLY | O_CREAT, 0600);
    if (from < 0 || to < 0) fail("open");
    off_t at = lseek(to, 0, SEEK_END);
    if (at > now->st_size) {
        if (ftruncate(to, 0)) fail("ftruncate");
        at = 0;
    }
    while (at < now->st_size) {
        size_t wanted = sizeof bytes;
        if (now->st_size - at < (off_t)wanted) wanted = now->st_size - at;
        ssize_t read = pread(from, bytes, wanted, at);
        if (read <= 0 || pwrite(to, bytes, read, at) != read) fail("copy");
        at += read;
    }
    close(from);
    close(to);
}

static int real_rename(const char *from, const char *to) {
    static int (*call)(const char *, const char *);
    if (!call) call = dlsym(RTLD_NEXT, "rename");
    return call(from, to);
}

/* Keeps the names of the directory, and the contents too if `with_contents`. */
static void keep_names(int with_contents) {
    char path[PATH_MAX + NAME_MAX + 2], new[PATH_MAX], names[PATH_MAX];
    snprintf(new, sizeof new, "%s/names.new", left);
    snprintf(names, sizeof names, "%s/names", left);
    FILE *list = fopen(new, "w");
    DIR *directory = opendir(disk);
    if (!list || !directory) fail("list");
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct stat now;
        snprintf(path, sizeof path, "%s/%s", disk, entry->d_name);
        if (lstat(path, &now) || !S_ISREG(now.st_mode)) continue;
        fprintf(list, "%u %s\n", number_of(now.st_ino), entry->d_name);
        if (with_contents) keep_content(path, &now);
    }
    closedir(directory);
    if (fclose(list) || real_rename(new, names)) fail("names");
}

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("HAIMA_POWER_CUT_DISK");
    left = getenv("HAIMA_POWER_CUT_LEFT");
    is_deaf = getenv("HAIMA_POWER_CUT_DEAF") != NULL;
    if (!name || !left || !realpath(name, disk)) fail("HAIMA_POWER_CUT_DISK");
    keep_names(1);
}

static int sync_file(int fd) {
    char link[64], path[PATH_MAX];
    struct stat now;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (is_deaf || length < 0 || fstat(fd, &now)) return 0;
    path[length] = 0;
    if (strncmp(path, disk, strlen(disk))) return 0;
    pthread_mutex_lock(&lock);
    if (S_ISDIR(now.st_mode)) keep_names(0);
    else keep_content(link, &now);
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd) { return sync_file(fd); }

int fdatasync(int fd) { return sync_file(fd); }

int unlink(const char *path) {
    static int (*call)(const char *);
    struct stat gone;
    pthread_mutex_lock(&lock);
    if (!call) call = dlsym(RTLD_NEXT, "unlink");
    int is_there = !lstat(path, &gone), result = call(path);
    if (is_there && !result && gone.st_nlink == 1) forget(gone.st_ino);
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    struct stat gone;
    pthread_mutex_lock(&lock);
    int is_there = !lstat(to, &gone), result = real_rename(from, to);
    if (is_there && !result && gone.st_nlink == 1) forget(gone.st_ino);
    pthread_mutex_unlock(&lock);
    return result;
}
