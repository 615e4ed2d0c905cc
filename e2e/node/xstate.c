/* Lets a User-mode Linux kernel of before 6.14 run on processors that have more registers than it
   knows (AMX). Such a kernel saves what fits its buffer of a process' extended registers
   (PTRACE_GETREGSET cuts) and then cannot set them (PTRACE_SETREGSET refuses less than all): its
   init dies with "ptrace set fp regs failed, errno = 14". Preloaded into the kernel's process, this
   completes what is set by what the process has. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...) {
  static long (*next)(enum __ptrace_request, ...);
  static char all[64 * 1024];
  va_list arguments;
  va_start(arguments, request);
  int pid = va_arg(arguments, int);
  void *address = va_arg(arguments, void *);
  void *data = va_arg(arguments, void *);
  va_end(arguments);
  if (!next) next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
  if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE) {
    struct iovec *given = data, whole = {all, sizeof all};
    if (next(PTRACE_GETREGSET, pid, address, &whole) == 0 && whole.iov_len > given->iov_len) {
      memcpy(all, given->iov_base, given->iov_len);
      return next(request, pid, address, &whole);
    }
  }
  return next(request, pid, address, data);
}
