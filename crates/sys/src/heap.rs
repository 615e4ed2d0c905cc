//! What the C library's allocator keeps back. It sets options of the GNU C library; others have none.

/// Makes the allocator give memory back early, and ask for little at a time: for a small process
/// that lives long and is forked often.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    {
        const PAGES: libc::c_int = 32 * 1024;
        set(&[
            (libc::M_TRIM_THRESHOLD, PAGES),
            (libc::M_TOP_PAD, 0),
            (libc::M_MMAP_THRESHOLD, PAGES),
        ]);
    }
}

/// Makes the allocator give back large blocks as soon as they are free. By itself it raises what
/// counts as large with each that is freed, up to 32 MiB, and a message that was once that large
/// would be held for good. Its threads share two arenas: each keeps what its busiest moment has
/// needed, and by itself a daemon of many short-lived threads has eight for each processor.
pub fn give_back_large() {
    #[cfg(target_env = "gnu")]
    set(&[(libc::M_MMAP_THRESHOLD, 1024 * 1024), (libc::M_ARENA_MAX, 2)]);
}

#[cfg(target_env = "gnu")]
fn set(options: &[(libc::c_int, libc::c_int)]) {
    for (option, value) in options {
        // SAFETY: it takes two integers by value and is called before any thread is made.
        #[expect(unsafe_code, reason = "mallopt(3) has no wrapper")]
        unsafe {
            libc::mallopt(*option, *value);
        }
    }
}
