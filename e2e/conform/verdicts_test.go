package conform

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
)

const (
	getFilter = 0x420c // PTRACE_SECCOMP_GET_FILTER
	x86_64    = 0xc000003e
	i386      = 0x40000003
	x32       = 1 << 30
)

// The kernel comes to the same verdict about every system call in a container of minke as in one of
// containerd: what the two loaded is read back from the kernel, and run.
func TestPeerVerdicts(t *testing.T) {
	ours, theirs := minke(t), peer(t)
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			mine, other := filters(t, kind.in(t, ours).pid), filters(t, kind.in(t, theirs).pid)
			if privileged := kind.name == "privileged"; privileged != (len(mine) == 0) || len(mine) != len(other) {
				t.Fatalf("minke has loaded %d filters, containerd %d", len(mine), len(other))
			}
			allowed, refused := 0, 0
			for _, abi := range []struct{ arch, bit uint32 }{{x86_64, 0}, {i386, 0}, {x86_64, x32}} {
				// The highest number of today is below 600.
				for number := range uint32(1000) {
					for _, arguments := range arguments {
						got := verdict(t, mine, abi.arch, number|abi.bit, arguments)
						want := verdict(t, other, abi.arch, number|abi.bit, arguments)
						if got != want && !newer(number, got, want) {
							t.Errorf("call %d of %#x with %#x: %#x, and %#x with containerd",
								number|abi.bit, abi.arch, arguments, got, want)
						}
						if got == 0x7fff0000 {
							allowed++
						} else {
							refused++
						}
					}
				}
			}
			if len(mine) > 0 && (allowed < 1000 || refused < 1000) {
				t.Errorf("%d calls are allowed, %d refused: that is no filter", allowed, refused)
			}
		})
	}
}

// newer: a call that the default profile allows by name, in both, and that the libseccomp which runc
// is linked with may be too old to know; an unknown name is left out. Debian 12 has 2.5.4, which ends
// with cachestat; these are uretprobe, and from statmount to removexattrat.
func newer(number, minke, containerd uint32) bool {
	known := number == 335 || 457 <= number && number <= 466
	return known && minke == 0x7fff0000 && (containerd == 0x50001 || containerd == 0x50026)
}

// arguments are those that the default profile looks at: of clone, socket and personality, and what
// differs from them in the upper half.
var arguments = [][6]uint64{
	{}, {0x10000000}, {0x11, 0x10000000}, {8}, {0x20008}, {38}, {40}, {0xffffffff}, {1<<32 | 8},
	{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)},
}

// verdict is that of the strictest filter.
func verdict(t *testing.T, filters []*bpf.VM, arch, number uint32, arguments [6]uint64) uint32 {
	t.Helper()
	// The kernel's struct seccomp_data; the machine for packets reads each word from the highest byte.
	data := binary.BigEndian.AppendUint32(nil, number)
	data = binary.BigEndian.AppendUint32(data, arch)
	data = append(data, make([]byte, 8)...)
	for _, argument := range arguments {
		data = binary.BigEndian.AppendUint32(data, uint32(argument))
		data = binary.BigEndian.AppendUint32(data, uint32(argument>>32))
	}
	strictest := uint32(0x7fff0000)
	for _, filter := range filters {
		found, err := filter.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		// Actions are ordered as signed numbers, killing the process before all others.
		if int32(uint32(found)&0xffff0000) < int32(strictest&0xffff0000) {
			strictest = uint32(found)
		}
	}
	return strictest
}

// filters reads back what a process has loaded. It is stopped meanwhile.
func filters(t *testing.T, pid int) []*bpf.VM {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.PtraceAttach(pid); err != nil {
		t.Fatal(err)
	}
	defer syscall.PtraceDetach(pid)
	if _, err := syscall.Wait4(pid, nil, syscall.WALL, nil); err != nil {
		t.Fatal(err)
	}
	var all []*bpf.VM
	for index := uintptr(0); ; index++ {
		filter, err := filterAt(pid, index)
		if errors.Is(err, syscall.ENOENT) || index == 0 && errors.Is(err, syscall.EINVAL) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, filter)
	}
}

func filterAt(pid int, index uintptr) (*bpf.VM, error) {
	length, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, getFilter, uintptr(pid), index, 0, 0, 0)
	if errno != 0 {
		return nil, errno
	}
	raw := make([]struct {
		code   uint16
		jt, jf uint8
		k      uint32
	}, length)
	_, _, errno = syscall.Syscall6(syscall.SYS_PTRACE, getFilter, uintptr(pid), index,
		uintptr(unsafe.Pointer(&raw[0])), 0, 0)
	if errno != 0 {
		return nil, errno
	}
	program := make([]bpf.RawInstruction, length)
	for i, one := range raw {
		program[i] = bpf.RawInstruction{Op: one.code, Jt: one.jt, Jf: one.jf, K: one.k}
	}
	instructions, all := bpf.Disassemble(program)
	if !all {
		return nil, fmt.Errorf("a filter of %d has instructions that are not known", pid)
	}
	return bpf.NewVM(instructions)
}
