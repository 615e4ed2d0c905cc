//! What a process that others can look into is born with.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{self, Errno};
use sys::memory::{thread_control_span, withhold};

use super::child::read_all;

/// Withholds from processes made from now on all memory but the span of `start` and `length`, files
/// that are mapped (code, constants, initialised data), the kernel's own pages and the thread's
/// control block. `procfs` is the keeper's.
///
/// Whoever makes a process after this does it by [`sys::clone::clone_onto`], on a stack in the span,
/// and what that runs uses no heap and no static that the program writes.
///
/// # Errors
/// What reading the process's own maps and madvise(2) say.
pub(super) fn share_only(
    (start, length): (usize, usize),
    procfs: BorrowedFd<'_>,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let maps = openat(procfs, c"self/maps", flags, Mode::empty())?;
    let maps = String::from_utf8(read_all(maps.as_fd())?).map_err(|_| Errno::ILSEQ)?;
    let mut kept = [(start, start + length), thread_control_span()];
    kept.sort_unstable();
    for (mut from, end) in maps.lines().filter_map(anonymous_span) {
        // Neighbouring mappings of one kind are one line: what is kept is cut out of it.
        for (kept_start, kept_end) in kept {
            if kept_end > from && kept_start < end {
                hide(from, kept_start)?;
                from = kept_end;
            }
        }
        hide(from, end)?;
    }
    Ok(())
}

fn hide(from: usize, to: usize) -> io::Result<()> {
    if from >= to {
        return Ok(());
    }
    // SAFETY: `share_only` demands of its callers that later processes do without.
    #[expect(unsafe_code, reason = "new processes lose memory")]
    unsafe {
        withhold(from, to)
    }
}

/// Start and end of a line of /proc/PID/maps, where no file and nothing of the kernel's is mapped.
fn anonymous_span(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if let Some(name) = fields.nth(4)
        && (name.starts_with('/') || name.starts_with("[v"))
    {
        return None;
    }
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_the_kernels_pages_are_not_anonymous() {
        let lines = "\
            55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]\n\
            7f0000000000-7f0000001000 r--p 00000000 08:01 123                        /lib/libc.so\n\
            7f0000001000-7f0000002000 rw-s 00000000 00:01 2049       /memfd:keeper (deleted)\n\
            7f0000002000-7f0000003000 rw-p 00000000 00:00 0\n\
            7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]\n\
            7ffc00100000-7ffc00102000 r-xp 00000000 00:00 0                          [vdso]\n\
            nonsense\n";
        let spans: Vec<usize> =
            lines.lines().filter_map(anonymous_span).map(|span| span.0).collect();
        assert_eq!(spans, [0x55d0_c0a0_0000, 0x7f00_0000_2000, 0x7ffc_0000_0000]);
    }
}
