//! Memory that a new process is, or is not, born with (mmap(2), madvise(2)).

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use rustix::io::{self, Errno};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Zeroed memory in a mapping of its own.
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
        let start = NonNull::new(start).ok_or(Errno::NOMEM)?;
        Ok(Self { start, length })
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has this start and length, is readable and writable, lives as long as
        // `self`, and is reached only through that, which is borrowed.
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

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and is reached only through `self`, which goes.
        #[expect(unsafe_code, reason = "the mapping is known by its address")]
        let _cannot_fail = unsafe { munmap(self.start.as_ptr(), self.length) };
    }
}

/// Spans of addresses that a process can withhold from others.
#[derive(Debug)]
pub struct Spans(Vec<(usize, usize)>);

impl Spans {
    /// All but the region, what the program and its libraries have mapped of their files, and the
    /// calling thread's control block.
    #[must_use]
    pub fn all_but(region: &Region) -> Self {
        let page = page_size();
        let start = region.start().as_ptr() as usize;
        let mut kept = file_spans();
        kept.extend([(start, start + region.length()), thread_control_span()]);
        kept.sort_unstable();
        let mut withheld = Vec::with_capacity(kept.len() + 1);
        let mut from = 0;
        for (start, end) in kept {
            let start = start & !(page - 1);
            if start > from {
                withheld.push((from, start));
            }
            from = from.max(end.next_multiple_of(page));
        }
        withheld.push((from, TOP & !(page - 1)));
        Self(withheld)
    }

    /// Withholds them from processes that the caller makes from now on, which are born with holes
    /// there (MADV_DONTFORK). The caller is the thread that has listed them, or its only one is a
    /// copy of that.
    ///
    /// # Safety
    /// Whatever such a process executes uses nothing there: no heap, no static that the program
    /// writes, no other stack, no call that is answered without the kernel (clock_gettime(2)).
    ///
    /// # Errors
    /// What madvise(2) says.
    #[expect(unsafe_code, reason = "new processes lose memory")]
    pub unsafe fn withhold(&self) -> io::Result<()> {
        // SAFETY: the advice changes nothing for the caller, and the caller has promised that later
        // processes do without.
        self.0.iter().try_for_each(|(start, end)| unsafe { withhold(*start, *end) })
    }
}

/// Above all memory of any process: the kernel's half begins there.
const TOP: usize = isize::MAX as usize;

/// # Safety
/// See [`Spans::withhold`].
#[expect(unsafe_code, reason = "new processes lose memory")]
unsafe fn withhold(start: usize, end: usize) -> io::Result<()> {
    // SAFETY: the advice changes nothing for the caller, and the caller has promised that later
    // processes do without.
    match unsafe { madvise(start as *mut c_void, end - start, Advice::LinuxDontFork) } {
        // Said of what is not mapped, after all that is was advised on. Where the kernel lacks the
        // memory to do so it says EAGAIN.
        Err(Errno::NOMEM) => Ok(()),
        other => other,
    }
}

/// What the program and its libraries have mapped of their files: code, constants, and data as it
/// was in the beginning, with the rest of the last page.
fn file_spans() -> Vec<(usize, usize)> {
    extern "C" fn note(object: *mut libc::dl_phdr_info, _: usize, spans: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr(3) passes a description that lives as long as the call.
        #[expect(unsafe_code, reason = "a C function passes a pointer")]
        let object = unsafe { &*object };
        // SAFETY: the program's own headers, which stay mapped, and as many as it says.
        #[expect(unsafe_code, reason = "a C function passes a pointer")]
        let headers =
            unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
        // SAFETY: it is the list that `file_spans` has passed, which nobody else uses meanwhile.
        #[expect(unsafe_code, reason = "a C function passes a pointer")]
        let spans = unsafe { &mut *spans.cast::<Vec<(usize, usize)>>() };
        for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD) {
            // The first is a difference, and below zero where an object lies lower than it was linked
            // for, as the vDSO of User-mode Linux does.
            let start = (object.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
            spans.push((start, start + header.p_filesz as usize));
        }
        0
    }
    let mut spans = Vec::new();
    // SAFETY: `note` is of the type that is called, and is given the list that it expects.
    #[expect(unsafe_code, reason = "the C library knows what it has loaded")]
    unsafe {
        libc::dl_iterate_phdr(Some(note), (&raw mut spans).cast());
    }
    spans
}

/// The span of addresses that the kernel and the C library need of any thread: its control block,
/// where the kernel keeps rseq(2) current, and the errno. Whole pages.
fn thread_control_span() -> (usize, usize) {
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
