/* What hostile containers run: static, so that any image can hold it.

     probe spy MILLISECONDS MARKER [HALF OTHER]...
                                                looks into every process that comes and goes
     probe swap DIR ONE OTHER                   exchanges two names of a directory without end
     probe bomb                                 forks without end
     probe hold                                 stays
     probe overwrite DESCRIPTOR                 tries for a while to write to the file behind it
     probe without overlay|nftables COMMAND...  runs it on a kernel that seems to lack that
     probe remount|umount|cover|bind|write|mknod PATH
                                                tries it and says how that went

   A spy reports a line for each process in which it found the host's file MARKER, or in whose memory,
   environment or open files it found a word HALF+OTHER (in halves, so that nobody else has it). A child
   of its own holds the words in all three: a spy that does not find them there is blind. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
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

static char *words[8];
static int count;

static int has_word(const char *bytes, size_t length) {
    for (int i = 0; i < count; i++)
        if (memmem(bytes, length, words[i], strlen(words[i]))) return 1;
    return 0;
}

static char page[1 << 20];

/* By process_vm_readv, and by /proc/PID/mem where that is refused. */
static int in_memory(int pid) {
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int mem = open(path, O_RDONLY), found = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) != 2) continue;
        for (unsigned long at = start; at < end; at += sizeof page - 4096) {
            size_t want = end - at < sizeof page ? end - at : sizeof page;
            struct iovec here = {page, want}, there = {(void *)at, want};
            ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
            if (got <= 0 && mem >= 0) got = pread(mem, page, want, (off_t)at);
            if (got <= 0) break;
            if (has_word(page, got)) found = 1;
        }
    }
    if (maps) fclose(maps);
    if (mem >= 0) close(mem);
    return found;
}

/* What a path says, if it is a file: a pipe would be emptied by who looks. */
static int in_file(const char *path) {
    struct stat about;
    int fd = stat(path, &about) == 0 && S_ISREG(about.st_mode) ? open(path, O_RDONLY | O_NONBLOCK) : -1;
    ssize_t got = fd < 0 ? -1 : pread(fd, page, sizeof page, 0);
    if (fd >= 0) close(fd);
    return got > 0 && has_word(page, got);
}

static int in_environment(int pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    return in_file(path);
}

static int in_open_files(int pid) {
    char path[64];
    for (int fd = 0; fd < 32; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
        if (in_file(path)) return 1;
    }
    return 0;
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

/* Holds the words in its memory, its environment and an open file. */
static void hold_words(void) {
    int fd = memfd_create("words", 0);
    for (int i = 0; i < count; i++)
        if (write(fd, words[i], strlen(words[i])) < 0) exit(1);
    char *none[] = {"probe", "hold", NULL};
    char *environment[9] = {0};
    memcpy(environment, words, sizeof words);
    execve("/probe", none, environment);
    exit(1);
}

static int spy(long milliseconds, const char *marker, char **halves, int number) {
    for (count = 0; count < number / 2 && count < 8; count++)
        if (asprintf(&words[count], "%s%s", halves[2 * count], halves[2 * count + 1]) < 0) return 1;
    pid_t child = fork();
    if (child == 0) hold_words();
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
            if (in_memory(pid)) printf("found a word in the memory of %d %s\n", pid, comm);
            if (in_environment(pid)) printf("found a word in the environment of %d %s\n", pid, comm);
            if (in_open_files(pid)) printf("found a word in an open file of %d %s\n", pid, comm);
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

/* A file that runs cannot be written to, so it is tried until it may not run any more. */
static int overwrite(const char *descriptor) {
    char path[64];
    int fd = -1;
    snprintf(path, sizeof path, "/proc/self/fd/%s", descriptor);
    for (long end = now() + 500; fd < 0 && now() < end; usleep(1000)) {
        fd = open(path, O_WRONLY);
        if (fd < 0 && errno != ETXTBSY) break;
    }
    ssize_t done = fd < 0 ? -1 : write(fd, "#!/hostile\n", 11);
    printf("overwrite: %s\n", done < 0 ? strerrorname_np(errno) : "ok");
    fflush(stdout);
    return 0;
}

/* The numbers are those that a kernel without it answers with. */
static int without(const char *feature, char **command) {
    struct sock_filter overlay[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsopen, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENODEV),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    }, nftables[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_NETLINK, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NETLINK_NETFILTER, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPROTONOSUPPORT),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof overlay / sizeof *overlay, overlay};
    if (!strcmp(feature, "nftables")) program = (struct sock_fprog){sizeof nftables / sizeof *nftables, nftables};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) return perror("probe: seccomp"), 2;
    execvp(command[0], command);
    return perror(command[0]), 2;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "", *first = argc > 2 ? argv[2] : "";
    if (!strcmp(name, "spy") && argc >= 6) return spy(atol(first), argv[3], argv + 4, argc - 4);
    if (!strcmp(name, "swap") && argc == 5) {
        if (chdir(first) < 0) return 1;
        for (;;) syscall(SYS_renameat2, AT_FDCWD, argv[3], AT_FDCWD, argv[4], 2 /* RENAME_EXCHANGE */);
    }
    if (!strcmp(name, "bomb")) for (signal(SIGTERM, SIG_IGN);;) fork();
    if (!strcmp(name, "hold")) for (;;) pause();
    if (!strcmp(name, "overwrite")) return overwrite(first);
    if (!strcmp(name, "without") && argc > 3) return without(first, argv + 3);
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
