//! What the C library's allocator keeps back.

/// Makes the allocator give memory back early, and ask for little at a time: for a small process
/// that lives long and is forked often. It sets options of the GNU C library; others have none.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    {
        const PAGES: libc::c_int = 32 * 1024;
        for (option, value) in
            [(libc::M_TRIM_THRESHOLD, PAGES), (libc::M_TOP_PAD, 0), (libc::M_MMAP_THRESHOLD, PAGES)]
        {
            // SAFETY: it takes two integers by value and is called before any thread is made.
            #[expect(unsafe_code, reason = "mallopt(3) has no wrapper")]
            unsafe {
                libc::mallopt(option, value);
            }
        }
    }
}
