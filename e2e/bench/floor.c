// The floor: the kernel objects of one pod with nothing around them, and how long the kernel takes
// for them. No checks, no records, no recovery; what is left of a runtime when all of it is taken
// away.
//
//   floor ROOT DIR CGROUP TREE...
//
// ROOT is an unpacked image, DIR a directory to work in, CGROUP a path below every cgroup TREE. It
// makes one pod, executes /bin/true in it, removes it, and prints a line for each step: its name and
// microseconds. The bridge `floor0` is made if it is not there.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_link.h>
#include <linux/mount.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BRIDGE "floor0"
#define HOST_END "floor1"

static void need(int ok, const char *what) {
  if (!ok) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
  }
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

// --- netlink -----------------------------------------------------------------------------------------
struct request {
  struct nlmsghdr head;
  char body[2048];
};

static void *put(struct request *r, const void *data, size_t length) {
  void *at = (char *)r + NLMSG_ALIGN(r->head.nlmsg_len);
  if (data) memcpy(at, data, length);
  r->head.nlmsg_len = NLMSG_ALIGN(r->head.nlmsg_len) + NLMSG_ALIGN(length);
  return at;
}

static struct rtattr *attribute(struct request *r, int type, const void *data, size_t length) {
  struct rtattr head = {.rta_len = RTA_LENGTH(length), .rta_type = type};
  struct rtattr *at = put(r, &head, sizeof head);
  if (length) put(r, data, length);
  return at;
}

static void end(struct request *r, struct rtattr *nest) {
  nest->rta_len = (char *)r + r->head.nlmsg_len - (char *)nest;
}

static struct request start(int type, int flags, const void *head, size_t length) {
  struct request r = {.head = {.nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = type,
                               .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags}};
  put(&r, head, length);
  return r;
}

static int ask(struct request *r) {
  int socket_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  char answer[4096];
  need(send(socket_fd, r, r->head.nlmsg_len, 0) >= 0, "send to netlink");
  need(recv(socket_fd, answer, sizeof answer, 0) >= 0, "hear from netlink");
  close(socket_fd);
  return ((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error;
}

static void up(const char *name) {
  struct ifinfomsg link = {.ifi_index = if_nametoindex(name), .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
  struct request r = start(RTM_NEWLINK, 0, &link, sizeof link);
  need(ask(&r) == 0, "turn a link on");
}

static void address(const char *name, const char *text) {
  struct in_addr ip;
  inet_pton(AF_INET, text, &ip);
  struct ifaddrmsg message = {.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = if_nametoindex(name)};
  struct request r = start(RTM_NEWADDR, NLM_F_CREATE, &message, sizeof message);
  attribute(&r, IFA_LOCAL, &ip, sizeof ip);
  attribute(&r, IFA_ADDRESS, &ip, sizeof ip);
  int error = ask(&r);
  need(error == 0 || error == -EEXIST, "add an address");
}

static void bridge(void) {
  if (if_nametoindex(BRIDGE)) return;
  struct ifinfomsg link = {0};
  struct request r = start(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
  attribute(&r, IFLA_IFNAME, BRIDGE, sizeof BRIDGE);
  struct rtattr *info = attribute(&r, IFLA_LINKINFO, NULL, 0);
  attribute(&r, IFLA_INFO_KIND, "bridge", 7);
  end(&r, info);
  need(ask(&r) == 0, "make the bridge");
  address(BRIDGE, "10.90.0.1");
  up(BRIDGE);
}

static void veth(pid_t pod) {
  struct ifinfomsg link = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, inside = {0};
  int master = if_nametoindex(BRIDGE);
  struct request r = start(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
  attribute(&r, IFLA_IFNAME, HOST_END, sizeof HOST_END);
  attribute(&r, IFLA_MASTER, &master, sizeof master);
  struct rtattr *info = attribute(&r, IFLA_LINKINFO, NULL, 0);
  attribute(&r, IFLA_INFO_KIND, "veth", 5);
  struct rtattr *data = attribute(&r, IFLA_INFO_DATA, NULL, 0);
  struct rtattr *peer = attribute(&r, VETH_INFO_PEER, NULL, 0);
  put(&r, &inside, sizeof inside);
  attribute(&r, IFLA_IFNAME, "eth0", 5);
  attribute(&r, IFLA_NET_NS_PID, &pod, sizeof pod);
  end(&r, peer), end(&r, data), end(&r, info);
  int error = ask(&r);
  errno = -error;
  need(error == 0, "make the veth");
}

// --- processes ---------------------------------------------------------------------------------------
static pid_t fork_into(unsigned long namespaces) {
  return syscall(SYS_clone, namespaces | SIGCHLD, NULL, NULL, NULL, NULL);
}

static void say(int fd) { need(write(fd, "x", 1) == 1, "wake the other one"); }
static void hear(int fd) {
  char byte;
  need(read(fd, &byte, 1) == 1, "wait for the other one");
}

static void write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  need(fd >= 0 && write(fd, text, strlen(text)) > 0, path);
  close(fd);
}

// As long as the default profile's program; every system call is allowed.
static void load_seccomp(void) {
  struct sock_filter code[400];
  for (int i = 0; i < 399; i++)
    code[i] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
  code[399] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog program = {400, code};
  need(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0, "load the filter");
}

static int overlay(const char *root, const char *dir) {
  char upper[4096], work[4096];
  snprintf(upper, sizeof upper, "%s/upper", dir);
  snprintf(work, sizeof work, "%s/work", dir);
  mkdir(upper, 0755), mkdir(work, 0755);
  int fs = syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC);
  syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "lowerdir", root, 0);
  syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "upperdir", upper, 0);
  syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "workdir", work, 0);
  syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, "volatile", NULL, 0);
  need(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0, "make the overlay");
  int tree = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
  need(tree >= 0, "mount the overlay");
  close(fs);
  return tree;
}

static void enter_root(int tree) {
  need(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "make the mounts private");
  need(syscall(SYS_move_mount, tree, "", AT_FDCWD, "/tmp", MOVE_MOUNT_F_EMPTY_PATH) == 0, "attach the root");
  need(chdir("/tmp") == 0, "enter the root");
  need(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0, "mount proc");
  need(mount("dev", "dev", "tmpfs", MS_NOSUID, "mode=755") == 0, "mount dev");
  mkdir("dev/pts", 0755), mkdir("dev/shm", 01777), mkdir("dev/mqueue", 0755);
  mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666");
  mount("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  mount("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  mount("sysfs", "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL);
  const char *nodes[] = {"null", "zero", "full", "random", "urandom", "tty"};
  const int minors[] = {3, 5, 7, 8, 9, 0};
  for (int i = 0; i < 6; i++) {
    char path[32];
    snprintf(path, sizeof path, "dev/%s", nodes[i]);
    mknod(path, S_IFCHR | 0666, (i == 5 ? 5 << 8 : 1 << 8) | minors[i]);
  }
  need(syscall(SYS_pivot_root, ".", ".") == 0, "pivot");
  need(umount2(".", MNT_DETACH) == 0, "leave the old root");
}

int main(int argc, char **argv) {
  need(argc > 4, "floor ROOT DIR CGROUP TREE...");
  const char *root = argv[1], *dir = argv[2], *cgroup = argv[3];
  char path[4096];
  int to_pod[2], from_pod[2], log_pipe[2];
  bridge();
  double begin = now();

  need(!pipe2(to_pod, O_CLOEXEC) && !pipe2(from_pod, O_CLOEXEC) && !pipe2(log_pipe, O_CLOEXEC), "pipe");
  pid_t pod = fork_into(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS);
  need(pod >= 0, "make the sandbox");
  if (pod == 0) {
    sethostname("floor", 5);
    hear(to_pod[0]);
    up("lo");
    address("eth0", "10.90.0.2");
    up("eth0");
    say(from_pod[1]);
    pause();
  }
  veth(pod);
  say(to_pod[1]);
  hear(from_pod[0]);
  double sandbox = now();

  for (int i = 4; i < argc; i++) {
    snprintf(path, sizeof path, "%s/%s", argv[i], cgroup);
    need(mkdir(path, 0755) == 0 || errno == EEXIST, path);
    char file[4200];
    if (snprintf(file, sizeof file, "%s/cpuset.cpus", path), access(file, F_OK) == 0) {
      const char *names[] = {"cpuset.cpus", "cpuset.mems"};
      for (int n = 0; n < 2; n++) {
        char value[256] = {0};
        snprintf(file, sizeof file, "%s/../%s", path, names[n]);
        int fd = open(file, O_RDONLY | O_CLOEXEC);
        need(fd >= 0 && read(fd, value, sizeof value - 1) > 0, file);
        close(fd);
        snprintf(file, sizeof file, "%s/%s", path, names[n]);
        write_file(file, value);
      }
    }
    if (snprintf(file, sizeof file, "%s/memory.limit_in_bytes", path), access(file, F_OK) == 0)
      write_file(file, "268435456");
    if (snprintf(file, sizeof file, "%s/memory.max", path), access(file, F_OK) == 0)
      write_file(file, "268435456");
    if (snprintf(file, sizeof file, "%s/cpu.shares", path), access(file, F_OK) == 0)
      write_file(file, "256");
  }
  int net[3];
  const char *spaces[] = {"net", "ipc", "uts"};
  for (int i = 0; i < 3; i++) {
    snprintf(path, sizeof path, "/proc/%d/ns/%s", pod, spaces[i]);
    net[i] = open(path, O_RDONLY | O_CLOEXEC);
  }
  int tree = overlay(root, dir);
  pid_t container = fork_into(CLONE_NEWNS | CLONE_NEWPID);
  need(container >= 0, "make the container");
  if (container == 0) {
    for (int i = 4; i < argc; i++) {
      snprintf(path, sizeof path, "%s/%s/tasks", argv[i], cgroup);
      if (access(path, F_OK) != 0) snprintf(path, sizeof path, "%s/%s/cgroup.procs", argv[i], cgroup);
      write_file(path, "0");
    }
    for (int i = 0; i < 3; i++) need(setns(net[i], 0) == 0, "join the sandbox");
    enter_root(tree);
    dup2(log_pipe[1], 1);
    load_seccomp();
    char *program[] = {"/bin/sh", "-c", "echo ready; exec sleep 100000000", NULL};
    char *environment[] = {"PATH=/usr/bin:/bin", NULL};
    execve(program[0], program, environment);
    _exit(1);
  }
  close(tree);
  hear(log_pipe[0]);
  double ready = now();

  int pidfd = syscall(SYS_pidfd_open, container, 0);
  pid_t first = fork_into(0);
  if (first == 0) {
    for (int i = 4; i < argc; i++) {
      snprintf(path, sizeof path, "%s/%s/tasks", argv[i], cgroup);
      if (access(path, F_OK) != 0) snprintf(path, sizeof path, "%s/%s/cgroup.procs", argv[i], cgroup);
      write_file(path, "0");
    }
    need(setns(pidfd, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) == 0, "enter");
    pid_t second = fork_into(0);
    if (second == 0) {
      load_seccomp();
      char *program[] = {"/bin/true", NULL};
      execve(program[0], program, program + 1);
      _exit(1);
    }
    int status;
    waitpid(second, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
  }
  int status;
  need(waitpid(first, &status, 0) == first && status == 0, "execute /bin/true");
  double executed = now();

  kill(container, SIGKILL);
  waitpid(container, &status, 0);
  double stopped = now();
  for (int i = 0; i < 3; i++) close(net[i]);
  kill(pod, SIGKILL);
  waitpid(pod, &status, 0);
  for (int i = 4; i < argc; i++) {
    snprintf(path, sizeof path, "%s/%s", argv[i], cgroup);
    while (rmdir(path) != 0 && errno == EBUSY) usleep(50);
  }
  // The kernel takes the link with the namespace, a little later.
  while (if_nametoindex(HOST_END)) usleep(50);
  double gone = now();

  printf("pod ready %.1f\nRunPodSandbox %.1f\nCreateContainer + StartContainer %.1f\n", ready - begin,
         sandbox - begin, ready - sandbox);
  printf("ExecSync /bin/true %.1f\nStopContainer(0) %.1f\nwhole pod gone %.1f\n", executed - ready,
         stopped - executed, gone - executed);
  return 0;
}
