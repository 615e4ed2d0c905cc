/* What hostile containers run: static, so that any image can hold it.

     probe spy MILLISECONDS MARKER HALF OTHER   looks into every process that comes and goes
     probe swap DIR ONE OTHER                   exchanges two names of a directory without end
     probe bomb                                 forks without end
     probe hold                                 stays
     probe remount|umount|cover|bind|write|mknod PATH
                                                tries it and says how that went

   A spy reports a line for each process in which it found the host's file MARKER, or in whose memory
   it found the word HALF+OTHER (in halves, so that nobody else has it). A child of its own holds the
   word: a spy that does not find it there is blind. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int holds(int pid, const char *word) {
    static char memory[1 << 20];
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    int found = 0;
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) != 2) continue;
        for (unsigned long at = start; at < end; at += sizeof memory - 4096) {
            size_t want = end - at < sizeof memory ? end - at : sizeof memory;
            struct iovec here = {memory, want}, there = {(void *)at, want};
            ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
            if (got <= 0) break;
            if (memmem(memory, got, word, strlen(word))) found = 1;
        }
    }
    if (maps) fclose(maps);
    return found;
}

static int sees(int pid, const char *marker) {
    const char *ways[] = {"root", "cwd", "cwd/..", "cwd/../.."};
    char path[4200];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s%s", pid, ways[i], marker);
        if (access(path, F_OK) == 0) return 1;
    }
    for (int fd = 0; fd < 16; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d%s", pid, fd, marker);
        if (access(path, F_OK) == 0) return 1;
        snprintf(path, sizeof path, "/proc/%d/fd/%d/../../../../../../..%s", pid, fd, marker);
        if (access(path, F_OK) == 0) return 1;
    }
    return 0;
}

/* Who opens the program of a process for writing could change it for all. */
static int writes(int pid) {
    char path[64], exe[256] = "";
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    if (readlink(path, exe, sizeof exe - 1) < 0 || !strncmp(exe, "/probe", 6) || !strncmp(exe, "/bin/", 5) || !strncmp(exe, "/usr/", 5)) return 0;
    int fd = open(path, O_WRONLY);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static int spy(long milliseconds, const char *marker, const char *half, const char *other) {
    char word[256];
    snprintf(word, sizeof word, "%s%s", half, other);
    pid_t child = fork();
    if (child == 0) for (;;) pause();
    static unsigned char seen[1 << 22];
    long looks = 0, processes = 0;
    for (long end = now() + milliseconds; now() < end; looks++) {
        DIR *dir = opendir("/proc");
        for (struct dirent *entry; dir && (entry = readdir(dir));) {
            int pid = atoi(entry->d_name);
            if (pid <= 0 || pid == getpid()) continue;
            if (pid < (1 << 22) && !seen[pid]) { seen[pid] = 1; processes++; }
            char comm[32] = "?", path[64];
            snprintf(path, sizeof path, "/proc/%d/comm", pid);
            int fd = open(path, O_RDONLY);
            if (fd >= 0) { if (read(fd, comm, sizeof comm - 1) > 0) comm[strcspn(comm, "\n")] = 0; close(fd); }
            if (sees(pid, marker)) printf("found the marker by %d %s\n", pid, comm);
            if (writes(pid)) printf("found a program to write to by %d %s\n", pid, comm);
            if (holds(pid, word)) printf("found the word in %d %s\n", pid, comm);
        }
        if (dir) closedir(dir);
    }
    kill(child, SIGKILL);
    printf("spied on %ld processes, %ld times\n", processes, looks);
    fflush(stdout);
    return 0;
}

static int verdict(int result) {
    printf("%s\n", result < 0 ? strerrorname_np(errno) : "ok");
    return 0;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "", *first = argc > 2 ? argv[2] : "";
    if (!strcmp(name, "spy") && argc == 6) return spy(atol(first), argv[3], argv[4], argv[5]);
    if (!strcmp(name, "swap") && argc == 5) {
        if (chdir(first) < 0) return 1;
        for (;;) syscall(SYS_renameat2, AT_FDCWD, argv[3], AT_FDCWD, argv[4], 2 /* RENAME_EXCHANGE */);
    }
    if (!strcmp(name, "bomb")) for (signal(SIGTERM, SIG_IGN);;) fork();
    if (!strcmp(name, "hold")) for (;;) pause();
    if (!strcmp(name, "remount")) return verdict(mount(NULL, first, NULL, MS_REMOUNT | MS_BIND, NULL));
    if (!strcmp(name, "umount")) return verdict(umount2(first, MNT_DETACH));
    if (!strcmp(name, "cover")) return verdict(mount("none", first, "tmpfs", 0, NULL));
    if (!strcmp(name, "bind")) return verdict(mount("/", first, NULL, MS_BIND | MS_REC, NULL));
    if (!strcmp(name, "mknod")) return verdict(mknod(first, S_IFBLK | 0666, makedev(254, 0)));
    if (!strcmp(name, "write")) {
        int fd = open(first, O_WRONLY | O_CREAT, 0644);
        return verdict(fd < 0 ? fd : (int)write(fd, "x", 1));
    }
    fprintf(stderr, "probe: what is %s?\n", name);
    return 2;
}
