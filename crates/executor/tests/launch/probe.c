/* What the tests run inside containers: says what it sees and what it may do, one line per fact.
   Commands are separated by a lone comma: probe cat /etc/hostname , fds , pause */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

extern char **environ;

static void verdict(const char *what, const char *of, int result) {
    printf("%s %s: %s\n", what, of, result < 0 ? strerrorname_np(errno) : "ok");
}

static void cat(const char *path) {
    char buffer[65536];
    int fd = open(path, O_RDONLY);
    if (fd < 0) { verdict("cat", path, -1); return; }
    ssize_t length;
    while ((length = read(fd, buffer, sizeof buffer)) > 0) fwrite(buffer, 1, length, stdout);
    if (length < 0) verdict("cat", path, -1);
    close(fd);
}

static void list(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) { verdict("ls", path, -1); return; }
    printf("ls %s:", path);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) printf(" %s", entry->d_name);
    printf("\n");
    closedir(dir);
}

static void describe(const char *path) {
    struct stat st;
    if (lstat(path, &st) < 0) { verdict("stat", path, -1); return; }
    printf("stat %s: %o %d %d %u:%u\n", path, st.st_mode, st.st_uid, st.st_gid, major(st.st_rdev), minor(st.st_rdev));
}

/* Descriptors by asking the kernel for each, so that no directory has to be opened for it. */
static void descriptors(void) {
    printf("fds:");
    for (int fd = 0; fd < 4096; fd++) if (fcntl(fd, F_GETFD) >= 0) printf(" %d", fd);
    printf("\n");
}

static void terminal(void) {
    struct winsize size = {0};
    char name[128] = "";
    ioctl(0, TIOCGWINSZ, &size);
    ttyname_r(0, name, sizeof name);
    printf("tty: %d%d%d %s %dx%d session %d foreground %d\n", isatty(0), isatty(1), isatty(2), name,
           size.ws_row, size.ws_col, getsid(0) == getpid(), tcgetpgrp(0) == getpgrp());
    int tty = open("/dev/tty", O_RDWR);
    verdict("open", "/dev/tty", tty);
    close(tty);
    describe("/dev/console");
}

/* What can be learned of another process: its root, its memory, its descriptors. */
static void spy_on(int pid, const char *marker_file, const char *half, const char *other_half) {
    char path[512], line[512], secret[256], exe[256] = "?";
    static char memory[1 << 20];
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    ssize_t length = readlink(path, exe, sizeof exe - 1);
    if (length > 0) exe[length] = 0;
    snprintf(path, sizeof path, "/proc/%d/root%s", pid, marker_file);
    int root = access(path, F_OK) == 0;
    snprintf(path, sizeof path, "/proc/%d/cwd/..%s", pid, marker_file);
    root |= access(path, F_OK) == 0;
    snprintf(secret, sizeof secret, "%s%s", half, other_half);
    size_t secret_length = strlen(secret);
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    int found = 0;
    unsigned long read_bytes = 0;
    FILE *maps = fopen(path, "r");
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) != 2) continue;
        for (unsigned long at = start; at < end; at += sizeof memory - 4096) {
            size_t want = end - at < sizeof memory ? end - at : sizeof memory;
            struct iovec here = {memory, want}, there = {(void *)at, want};
            ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
            if (got <= 0) break;
            read_bytes += got;
            if (memmem(memory, got, secret, secret_length)) found = 1;
        }
    }
    if (maps) fclose(maps);
    printf("spy exe=%s marker=%d secret=%d readable=%d fds=", strrchr(exe, '/') ? strrchr(exe, '/') + 1 : exe, root, found, read_bytes > 0);
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        /* Whoever is root may know the numbers; what they stand for is another matter. */
        char file[600], target[16];
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.' && readlink(file, target, sizeof target) > 0) printf("%s,", entry->d_name);
    }
    if (dir) closedir(dir);
    printf("\n");
}

static void spy(const char *marker_file, const char *half, const char *other_half) {
    DIR *dir = opendir("/proc");
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        int pid = atoi(entry->d_name);
        if (pid > 0 && pid != getpid()) spy_on(pid, marker_file, half, other_half);
    }
    if (dir) closedir(dir);
    printf("spied\n");
    fflush(stdout);
}

/* One command; returns its exit code, or -1 to go on. */
static int run(int argc, char **argv) {
    const char *name = argv[0], *first = argc > 1 ? argv[1] : "", *second = argc > 2 ? argv[2] : "";
    if (!strcmp(name, "cat")) for (int i = 1; i < argc; i++) cat(argv[i]);
    else if (!strcmp(name, "say")) printf("%s\n", first);
    else if (!strcmp(name, "ls")) list(first);
    else if (!strcmp(name, "stat")) describe(first);
    else if (!strcmp(name, "fds")) descriptors();
    else if (!strcmp(name, "tty")) terminal();
    else if (!strcmp(name, "env")) for (char **entry = environ; *entry; entry++) puts(*entry);
    else if (!strcmp(name, "args")) { for (int i = 1; i < argc; i++) printf("[%s]", argv[i]); puts(""); }
    else if (!strcmp(name, "pwd")) { char *cwd = getcwd(NULL, 0); printf("cwd %s\n", cwd ? cwd : strerrorname_np(errno)); }
    else if (!strcmp(name, "pids")) printf("pid %d parent %d session %d\n", getpid(), getppid(), getsid(0));
    else if (!strcmp(name, "place")) printf("%s parent %d session %s\n", getpid() == 1 ? "first" : "later", getppid(), getsid(0) == getpid() ? "own" : "other");
    else if (!strcmp(name, "host")) { char host[256]; gethostname(host, 256); printf("host %s\n", host); }
    else if (!strcmp(name, "link")) { char to[512]; ssize_t n = readlink(first, to, 511); if (n >= 0) { to[n] = 0; printf("link %s: %s\n", first, to); } else verdict("link", first, -1); }
    else if (!strcmp(name, "write")) { int fd = open(first, O_WRONLY | O_CREAT, 0644); int r = fd < 0 ? -1 : (int)write(fd, second, strlen(second)); verdict("write", first, r); if (fd >= 0) close(fd); }
    else if (!strcmp(name, "remount")) verdict("remount", first, mount(NULL, first, NULL, MS_REMOUNT | MS_BIND, NULL));
    else if (!strcmp(name, "umount")) verdict("umount", first, umount2(first, MNT_DETACH));
    else if (!strcmp(name, "tmpfs")) verdict("tmpfs", first, mount("tmpfs", first, "tmpfs", 0, NULL));
    else if (!strcmp(name, "proc")) verdict("proc", first, mount("proc", first, "proc", 0, NULL));
    else if (!strcmp(name, "bind")) verdict("bind", first, mount(first, second, NULL, MS_BIND, NULL));
    else if (!strcmp(name, "mknod")) verdict("mknod", first, mknod(first, S_IFCHR | 0666, makedev(1, 3)));
    else if (!strcmp(name, "mkdir")) verdict("mkdir", first, mkdir(first, 0755));
    else if (!strcmp(name, "chroot")) verdict("chroot", first, chroot(first));
    else if (!strcmp(name, "nsroot")) { int fd = open("/proc/self/ns/mnt", O_RDONLY); verdict("nsroot", "", setns(fd, CLONE_NEWNS)); close(fd); }
    else if (!strcmp(name, "sethostname")) verdict("sethostname", first, sethostname(first, strlen(first)));
    else if (!strcmp(name, "oom")) { int fd = open("/proc/self/oom_score_adj", O_WRONLY); verdict("oom", first, fd < 0 ? -1 : (int)write(fd, first, strlen(first))); }
    else if (!strcmp(name, "fork")) { pid_t pid = fork(); if (pid == 0) _exit(0); verdict("fork", "", pid); if (pid > 0) waitpid(pid, NULL, 0); }
    else if (!strcmp(name, "statfs")) { struct statfs s; if (statfs(first, &s) < 0) verdict("statfs", first, -1); else printf("statfs %s: %lx\n", first, (unsigned long)s.f_type); }
    else if (!strcmp(name, "sched")) printf("policy %d nice %ld cpus %d ioprio %ld\n", sched_getscheduler(0), 20 - syscall(SYS_getpriority, 0, 0), ({ cpu_set_t set; sched_getaffinity(0, sizeof set, &set); CPU_COUNT(&set); }), syscall(SYS_ioprio_get, 1, 0));
    else if (!strcmp(name, "keyring")) printf("keyring %ld\n", syscall(SYS_keyctl, 0, -3, 0));
    else if (!strcmp(name, "spy")) spy(first, second, argc > 3 ? argv[3] : "");
    else if (!strcmp(name, "await")) { char byte; fflush(stdout); if (read(0, &byte, 1) != 1) return 9; }
    else if (!strcmp(name, "pause")) { fflush(stdout); for (;;) pause(); }
    else if (!strcmp(name, "exit")) { fflush(stdout); return atoi(first); }
    else { printf("unknown command %s\n", name); return 99; }
    fflush(stdout);
    return -1;
}

int main(int argc, char **argv) {
    int from = 1;
    for (int i = 1; i <= argc; i++) {
        if (i < argc && strcmp(argv[i], ",")) continue;
        if (i > from) {
            int code = run(i - from, argv + from);
            if (code >= 0) return code;
        }
        from = i + 1;
    }
    return 0;
}
