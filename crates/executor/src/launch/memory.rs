//! What a process that others can look into is born with.

use rustix::io;
use sys::memory::Spans;

/// Withholds memory from processes made from now on: `spans`, which are all but a region, files that are
/// mapped (code, constants, initialised data) and the thread's control block.
///
/// Whoever makes a process after this does it by [`sys::clone::clone_onto`], on a stack in the region,
/// and what that runs uses no heap, no static that the program writes, and no clock (the pages in
/// which the kernel keeps the time are withheld, too).
pub(super) fn withhold(spans: &Spans) -> io::Result<()> {
    // SAFETY: it is demanded of callers that later processes do without.
    #[expect(unsafe_code, reason = "new processes lose memory")]
    unsafe {
        spans.withhold()
    }
}
