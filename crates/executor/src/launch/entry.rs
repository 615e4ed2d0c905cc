//! The last stretch: from the gate into the container's program.
//!
//! Everything that it needs lies in one mapping, so that it can be run by a process that was born
//! with that mapping and little else. A process that enters a PID namespace in which a hostile
//! container already lives is seen there before it executes its program, and CAP_SYS_PTRACE opens
//! its memory (process_vm_readv(2)) and its /proc/PID/root however undumpable it is. Where somebody
//! may have that, it enters with nothing worth having: the process that makes it has joined everything
//! else, closed its descriptors, given up its privileges and loaded its filter before, and withholds
//! all memory from it but this mapping, a stack, the program's code, and the page of the thread's
//! control block.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ops::Deref;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use sys::clone::{Kin, SIBLING_FLAGS, clone_onto, execute, execute_file, exit, start_session};
use sys::memory::Region;
use sys::seccomp::Instruction;

use super::descriptors::{Numbers, numbered};
use super::identity::Lock;
use super::report;
use crate::failure::{During, Failure, Step};
use crate::plan::{Alone, Process};

/// Where a program is looked for in a container whose environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Enough for the calls below [`enter`], in unoptimised builds too.
const STACK: usize = 64 * 1024;

/// Everything that the last stretch needs. The pointers point into the mapping it lies in.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Entry {
    /// Ways to the program, in the order of trial; ends with a null pointer.
    candidates: *const *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    /// What failures call the program.
    name: *const u8,
    name_length: usize,
    /// Whether the program was looked for in PATH.
    searched: bool,
    /// Whether it is an open file.
    by_descriptor: bool,
    /// Whether it waits at a gate when its maker has let it go.
    gated: bool,
    /// What it has open.
    numbers: Numbers,
    /// Whether standard input is its terminal.
    terminal: bool,
    /// What tells its own system calls from the container's.
    mark: usize,
    /// Of the whole mapping, whose end is a stack.
    length: usize,
}

/// The mapping with an [`Entry`] at its beginning.
#[derive(Debug)]
pub(super) struct Layout(Region);

impl Layout {
    pub(super) fn region(&self) -> &Region {
        &self.0
    }
}

impl Deref for Layout {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        // SAFETY: `lay_out` has written an Entry there, where nothing writes again, and the mapping
        // lives as long as `self`.
        #[expect(unsafe_code, reason = "the mapping is known by its address")]
        unsafe {
            self.0.start().cast::<Entry>().as_ref()
        }
    }
}

impl Entry {
    /// Lays out the mapping for a process.
    pub(super) fn lay_out(
        process: &Process,
        alone: &Alone,
        terminal: bool,
        mark: usize,
    ) -> Result<Layout, Failure> {
        let name = process.args.first().map_or("", String::as_str);
        if name.is_empty() && process.executable.is_none() {
            return Err(Failure::of(Step::Execute, "", Errno::INVAL));
        }
        let (candidates, searched) = candidates(name, &process.env);
        let lists = [&candidates, &process.args, &process.env];
        // A string with a zero byte cannot be passed on.
        let lists = lists.map(|list| {
            list.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>()
        });
        let [candidates, arguments, environment] = lists;
        let invalid = |_| Failure::of(Step::Execute, name, Errno::INVAL);
        let lists = [
            candidates.map_err(invalid)?,
            arguments.map_err(invalid)?,
            environment.map_err(invalid)?,
        ];
        let pointers: usize = lists.iter().map(|list| list.len() + 1).sum();
        let text: usize = lists.iter().flatten().map(|text| text.as_bytes_with_nul().len()).sum();
        let head = size_of::<Self>();
        let length = head + pointers * size_of::<usize>() + text + name.len() + STACK;
        let mut region = Region::new(length).during(Step::Memory)?;
        let region_length = region.length();
        let start = region.start().as_ptr() as usize;
        let bytes = region.bytes();

        let (mut pointer_at, mut text_at) = (head, head + pointers * size_of::<usize>());
        let mut starts = [ptr::null(); 3];
        for (list, list_start) in lists.iter().zip(&mut starts) {
            *list_start = (start + pointer_at) as *const *const c_char;
            for text in list {
                let text = text.as_bytes_with_nul();
                bytes[pointer_at..][..size_of::<usize>()]
                    .copy_from_slice(&(start + text_at).to_ne_bytes());
                bytes[text_at..][..text.len()].copy_from_slice(text);
                pointer_at += size_of::<usize>();
                text_at += text.len();
            }
            // The mapping is zeroes: the null pointer is there already.
            pointer_at += size_of::<usize>();
        }
        bytes[text_at..][..name.len()].copy_from_slice(name.as_bytes());
        let [candidates, arguments, environment] = starts;
        let entry = Self {
            candidates,
            arguments,
            environment,
            name: (start + text_at) as *const u8,
            name_length: name.len(),
            searched,
            by_descriptor: process.executable.is_some(),
            gated: alone.gate.is_some(),
            numbers: Numbers::of(alone),
            terminal,
            mark,
            length: region_length,
        };
        let place = region.start().cast::<Self>();
        // SAFETY: the mapping begins on a page, and has room for an Entry there that nothing else was
        // written to.
        #[expect(unsafe_code, reason = "the mapping is known by its address")]
        unsafe {
            place.write(entry);
        }
        Ok(Layout(region))
    }

    fn name(&self) -> &[u8] {
        // SAFETY: name and length were taken from the mapping that `self` lies in.
        #[expect(unsafe_code, reason = "the mapping is known by its address")]
        unsafe {
            std::slice::from_raw_parts(self.name, self.name_length)
        }
    }

    /// Says that all is done, waits where it `waits`, closes the lock, executes. The process becomes
    /// the program, or ends.
    pub(super) fn depart(&self, lock: &Lock, waits: bool) -> ! {
        if report::waiting(numbered(self.numbers.report)).is_err() {
            exit(1);
        }
        self.pass(waits, || lock.close())
    }

    /// Makes the process that departs: a sibling in the PID namespace that was joined for children,
    /// with nothing of the caller's memory. The caller ends.
    /// The mapping is all of its memory that has not been withheld.
    pub(super) fn send(&self, lock: &Lock) -> ! {
        let maker = numbered(self.numbers.report);
        if let Err((step, errno)) = lock.close() {
            report::failed(maker, step, b"", errno);
            exit(1);
        }
        let argument = ptr::from_ref(self).cast_mut().cast::<c_void>();
        let Some(top) = NonNull::new(argument.wrapping_byte_add(self.length)) else { exit(1) };
        // SAFETY: the last STACK bytes of the mapping are used for nothing else, and `enter` runs
        // within them; `argument` is an Entry in a mapping that is not withheld, and that the new
        // process has a copy of for as long as it runs.
        #[expect(unsafe_code, reason = "the process runs on a stack of its own")]
        let born = unsafe { clone_onto(Kin::Sibling, top, enter, argument, self.mark) };
        let told = born
            .map_err(|errno| report::failed(maker, Step::Clone, b"", errno))
            .map(|pid| report::born(maker, pid).and_then(|()| report::waiting(maker)));
        exit(if matches!(told, Ok(Ok(()))) { 0 } else { 1 })
    }

    /// Waits to be let go where it `waits`, and executes. Uses no heap.
    fn pass(&self, waits: bool, last: impl FnOnce() -> Result<(), (Step, Errno)>) -> ! {
        let maker = numbered(self.numbers.report);
        if waits && !report::wait(maker) {
            // The maker is gone, or has thought better of it.
            exit(1);
        }
        let listener = if self.gated {
            if !report::wait(numbered(self.numbers.go)) {
                exit(1);
            }
            numbered(self.numbers.word)
        } else {
            maker
        };
        if let Err((step, errno)) = last() {
            report::failed(listener, step, b"", errno);
            exit(1);
        }
        let (step, errno) = self.execute();
        report::failed(listener, step, self.name(), errno);
        exit(1)
    }

    fn execute(&self) -> (Step, Errno) {
        if self.by_descriptor {
            let file = numbered(self.numbers.executable);
            // SAFETY: the arrays are as `lay_out` made them.
            #[expect(unsafe_code, reason = "execveat(2) takes pointers")]
            return (Step::Execute, unsafe {
                execute_file(file, self.arguments, self.environment)
            });
        }
        let mut refused = None;
        let mut next = self.candidates;
        loop {
            // SAFETY: `next` is within the array, which ends with a null pointer.
            #[expect(unsafe_code, reason = "the array is known by its address")]
            let candidate = unsafe { next.read() };
            if candidate.is_null() {
                break;
            }
            // SAFETY: `candidate` and the arrays are as `lay_out` made them.
            #[expect(unsafe_code, reason = "execve(2) takes pointers")]
            let errno = unsafe { execute(candidate, self.arguments, self.environment) };
            match errno {
                _ if !self.searched => return (Step::Execute, errno),
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => refused = Some(errno),
                _ => return (Step::Execute, errno),
            }
            next = next.wrapping_add(1);
        }
        match refused {
            Some(errno) => (Step::Execute, errno),
            None => (Step::FindProgram, Errno::NOENT),
        }
    }
}

/// Where the new process begins, on its own stack, in memory with holes where the rest was.
extern "C" fn enter(entry: *mut c_void) -> c_int {
    // SAFETY: `send` passes an Entry in a mapping that this process has a copy of.
    #[expect(unsafe_code, reason = "clone(2) passes a pointer")]
    let entry = unsafe { &*entry.cast::<Entry>() };
    let last = || start_session(entry.terminal, entry.mark);
    entry.pass(true, || last().map_err(|errno| (Step::Session, errno)))
}

/// The ways to `name`, and whether it was looked for in the PATH of `environment`.
fn candidates(name: &str, environment: &[String]) -> (Vec<String>, bool) {
    if name.contains('/') || name.is_empty() {
        return (vec![name.to_owned()], false);
    }
    let path = environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
    let path = path.unwrap_or(DEFAULT_PATH);
    let ways = path.split(':').map(|directory| match directory {
        "" => format!("./{name}"),
        directory => format!("{}/{name}", directory.trim_end_matches('/')),
    });
    (ways.collect(), true)
}

/// What goes before a filter that is loaded ahead of [`Entry::send`]: it lets through, whatever the
/// filter says of them, the three calls that the process makes afterwards on its own behalf, and
/// those only if they bear `mark` in their fourth argument. None of them gives a program that
/// learned of the mark anything worth having.
pub(super) fn prologue(mark: usize) -> Vec<Instruction> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const ALLOW: u32 = 0x7fff_0000; // SECCOMP_RET_ALLOW
    // Offsets in struct seccomp_data; little endian, as all machines that we run on.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let argument = |index: u32| 16 + 8 * index;
    let load = |offset| Instruction { code: LOAD, jump_true: 0, jump_false: 0, operand: offset };
    let equal = |operand, jump_true, jump_false| Instruction {
        code: JUMP_IF_EQUAL,
        jump_true,
        jump_false,
        operand,
    };
    let mark = mark as u64;
    vec![
        load(ARCHITECTURE),
        equal(NATIVE_ARCHITECTURE, 0, 13),
        load(NUMBER),
        equal(libc::SYS_setsid as u32, 6, 0),
        equal(libc::SYS_clone as u32, 0, 2),
        load(argument(0)),
        equal(SIBLING_FLAGS, 3, 8),
        equal(libc::SYS_ioctl as u32, 0, 7),
        load(argument(1)),
        equal(libc::TIOCSCTTY as u32, 0, 5),
        load(argument(3)),
        equal(mark as u32, 0, 3),
        load(argument(3) + 4),
        equal((mark >> 32) as u32, 0, 1),
        Instruction { code: RETURN, jump_true: 0, jump_false: 0, operand: ALLOW },
    ]
}

/// AUDIT_ARCH_* of the machine that this is compiled for.
#[cfg(target_arch = "x86_64")]
const NATIVE_ARCHITECTURE: u32 = 0xc000_003e;
/// AUDIT_ARCH_* of the machine that this is compiled for.
#[cfg(target_arch = "aarch64")]
const NATIVE_ARCHITECTURE: u32 = 0xc000_00b7;
