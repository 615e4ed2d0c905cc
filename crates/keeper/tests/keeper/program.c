/* What the tests run in containers. Arguments are commands, done in order:
   out TEXT, err TEXT, lines N, blocks N, flood, cat, sleep MS, exit N, raise N, hold MS, serve PORT,
   peek PID, size, argv0 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static void put(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t written = write(fd, bytes, length);
        if (written < 0) exit(90);
        bytes += written;
        length -= written;
    }
}

static void rest(long ms) {
    struct timespec time = { ms / 1000, ms % 1000 * 1000000 };
    while (nanosleep(&time, &time) < 0) {}
}

static void cat(void) {
    char buffer[4096];
    ssize_t length;
    while ((length = read(0, buffer, sizeof buffer)) > 0) put(1, buffer, length);
}

static void loopback_up(void) {
    struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (ioctl(fd, SIOCSIFFLAGS, &request) < 0) exit(91);
    close(fd);
}

/* Says hello to one client on 127.0.0.1. */
static void serve(int port) {
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    loopback_up();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1) < 0) exit(92);
    put(1, "listening\n", 10);
    int client = accept(fd, NULL, NULL);
    put(client, "hello", 5);
    close(client);
}

static void verdict(const char *what, long result) {
    printf("%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "ok");
}

/* Tries everything that one process can do to another. */
static void peek(const char *pid) {
    char path[64], buffer[256];
    const char *files[] = { "mem", "environ", "maps", "exe", "fd", "root/proc", NULL };
    for (const char **file = files; *file; file++) {
        snprintf(path, sizeof path, "/proc/%s/%s", pid, *file);
        int fd = open(path, O_RDONLY);
        ssize_t length = fd < 0 ? -1 : strcmp(*file, "fd") ? read(fd, buffer, 64) : 0;
        verdict(*file, length);
        if (fd >= 0) close(fd);
    }
    struct iovec ours = { buffer, 64 }, theirs = { (void *)0x400000, 64 };
    verdict("memory", process_vm_readv(atoi(pid), &ours, 1, &theirs, 1, 0));
    snprintf(path, sizeof path, "/proc/%s/root", pid);
    DIR *root = opendir(path);
    int entries = 0;
    while (root && readdir(root)) entries++;
    printf("root has %d entries\n", root ? entries - 2 : -1);
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *fds = opendir(path);
    entries = 0;
    while (fds && readdir(fds)) entries++;
    printf("open files %d\n", fds ? entries - 2 : -1);
    snprintf(path, sizeof path, "/proc/%s/status", pid);
    FILE *status = fopen(path, "r");
    while (status && fgets(buffer, sizeof buffer, status))
        if (!strncmp(buffer, "Uid:", 4) || !strncmp(buffer, "CapEff:", 7)
            || !strncmp(buffer, "Seccomp:", 8) || !strncmp(buffer, "VmSize:", 7)) fputs(buffer, stdout);
    fflush(stdout);
}

/* Traces the next process that comes, and leaves it a zombie for so many milliseconds. */
static void seize(long milliseconds) {
    for (int pid = 2;; pid = pid == 4000 ? 2 : pid + 1) {
        if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) != 0) continue;
        rest(milliseconds);
        int status;
        while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) ptrace(PTRACE_CONT, pid, NULL, NULL);
        put(1, "let go\n", 7);
        return;
    }
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOFBF, 65536);
    for (int at = 1; at < count; at++) {
        const char *command = arguments[at];
        const char *value = at + 1 < count ? arguments[at + 1] : "";
        if (!strcmp(command, "out")) put(1, value, strlen(value)), at++;
        else if (!strcmp(command, "err")) put(2, value, strlen(value)), at++;
        else if (!strcmp(command, "lines")) {
            for (long line = 0; line < atol(value); line++) printf("line %ld\n", line);
            fflush(stdout);
            at++;
        } else if (!strcmp(command, "slow")) {
            for (long line = 0; line < atol(value); line++) {
                printf("line %ld\n", line);
                fflush(stdout);
                rest(2);
            }
            at++;
        } else if (!strcmp(command, "flood")) for (;;) put(1, "0123456789 0123456789 0123456789\n", 33);
        else if (!strcmp(command, "cat")) cat();
        else if (!strcmp(command, "sleep")) rest(atol(value)), at++;
        else if (!strcmp(command, "exit")) exit(atoi(value));
        else if (!strcmp(command, "raise")) kill(getpid(), atoi(value)), at++;
        else if (!strcmp(command, "traceme")) ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        else if (!strcmp(command, "seize")) seize(atol(value)), at++;
        else if (!strcmp(command, "hold")) { if (fork() == 0) { rest(atol(value)); put(1, "late\n", 5); exit(0); } at++; }
        else if (!strcmp(command, "serve")) serve(atoi(value)), at++;
        else if (!strcmp(command, "peek")) peek(value), at++;
        else if (!strcmp(command, "orphan")) {
            /* A grandchild that ends after its parent: whoever adopts it must reap it. */
            int pid = fork();
            if (pid == 0) { if (fork() == 0) { rest(50); _exit(0); } _exit(0); }
            waitpid(pid, NULL, 0);
        } else if (!strcmp(command, "zombies")) {
            DIR *proc = opendir("/proc");
            int all = 0, dead = 0;
            for (struct dirent *entry; (entry = readdir(proc)) != NULL;) {
                char path[300], state = 0;
                if (atoi(entry->d_name) == 0) continue;
                snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
                FILE *stat = fopen(path, "r");
                if (stat == NULL || fscanf(stat, "%*d (%*[^)]) %c", &state) != 1) continue;
                all++, dead += state == 'Z';
            }
            printf("processes %d zombies %d\n", all, dead);
            fflush(stdout);
        } else if (!strcmp(command, "size")) {
            struct winsize size = { 0 };
            verdict("size", ioctl(1, TIOCGWINSZ, &size));
            printf("%dx%d\n", size.ws_col, size.ws_row);
            fflush(stdout);
        } else if (!strcmp(command, "ids")) {
            printf("uid %d pid %d\n", getuid(), getpid());
            fflush(stdout);
        } else exit(99);
    }
    return 0;
}
