//! Memory that a new process is, or is not, born with (mmap(2), madvise(2)).

use std::ffi::c_void;
use std::ptr::NonNull;

use rustix::io::{self, Errno};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// Zeroed memory in a mapping of its own, which is never given back.
#[derive(Debug)]
pub struct Region {
    start: NonNull<c_void>,
    length: usize,
}

impl Region {
    /// Maps at least `length` bytes.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn new(length: usize) -> io::Result<Self> {
        let length = length.next_multiple_of(page_size()).max(1);
        // SAFETY: no address is asked for, so that no other mapping is replaced.
        #[expect(unsafe_code, reason = "mmap(2) can replace memory")]
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        Ok(Self { start: NonNull::new(start).ok_or(Errno::NOMEM)?, length })
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has this start and length, is readable and writable, lives for ever,
        // and is reached only through `self`, which is borrowed.
        #[expect(unsafe_code, reason = "the mapping is known by its address")]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.length)
        }
    }

    /// Where it starts.
    #[must_use]
    pub fn start(&self) -> NonNull<c_void> {
        self.start
    }

    /// Its length in bytes, whole pages.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}

/// Keeps the memory from `start` to `end` (whole pages) from processes that the caller makes from
/// now on: they are born with a hole there (MADV_DONTFORK).
///
/// # Safety
/// Whatever such a process executes uses nothing in that memory.
///
/// # Errors
/// What madvise(2) says.
#[expect(unsafe_code, reason = "new processes lose memory")]
pub unsafe fn withhold(start: usize, end: usize) -> io::Result<()> {
    // SAFETY: the advice changes nothing for the caller, and the caller has promised that later
    // processes do without.
    unsafe { madvise(start as *mut c_void, end.saturating_sub(start), Advice::LinuxDontFork) }
}

/// The span of addresses that the kernel and the C library need of any thread: its control block,
/// where the kernel keeps rseq(2) current, and the errno. Whole pages.
#[must_use]
pub fn thread_control_span() -> (usize, usize) {
    /// More than the control block of any C library.
    const CONTROL_BLOCK: usize = 4096;
    // SAFETY: both calls only compute an address.
    #[expect(unsafe_code, reason = "the C library's thread has no other name")]
    let (block, errno) =
        (unsafe { libc::pthread_self() } as usize, unsafe { libc::__errno_location() } as usize);
    let page = page_size();
    let start = block.min(errno) & !(page - 1);
    let end = (block.max(errno) + CONTROL_BLOCK).next_multiple_of(page);
    (start, end)
}

/// The C library's word for it: before Linux 6.4 rustix asks `/proc/self/auxv`, which a process that
/// stands in a container's root does not have.
fn page_size() -> usize {
    // SAFETY: the call reads a number that the C library has known since the program began.
    #[expect(unsafe_code, reason = "rustix has its own way")]
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
