//! What a process that others can look into is born with.

use rustix::io;
use sys::memory::withhold_all_but;

/// Withholds from processes made from now on all memory but the span of `start` and `length`, files
/// that are mapped (code, constants, initialised data) and the thread's control block.
///
/// Whoever makes a process after this does it by [`sys::clone::clone_onto`], on a stack in the span,
/// and what that runs uses no heap, no static that the program writes, and no clock (the pages in
/// which the kernel keeps the time are withheld, too).
pub(super) fn share_only((start, length): (usize, usize)) -> io::Result<()> {
    // SAFETY: it is demanded of callers that later processes do without.
    #[expect(unsafe_code, reason = "new processes lose memory")]
    unsafe {
        withhold_all_but((start, start + length))
    }
}
