//! What the C library's allocator keeps back. It sets options of the GNU C library; others have none.

/// The variable by which the GNU C library is tuned; see ld.so(8).
#[cfg(target_env = "gnu")]
const TUNABLES: &str = "GLIBC_TUNABLES";

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

/// Has the allocator's threads keep no free blocks of their own, which only the environment that a
/// program begins with can tell it: the present one begins again, as the same process with the same
/// arguments and descriptors. What a thread keeps holds the page that it lies in, and a daemon of few
/// calls and many threads has had a megabyte of such blocks all over its heap, which grew by that.
///
/// Returns where the environment says already how the allocator is to be, and where the program
/// cannot be executed again: nothing but memory is lost by that.
pub fn share_free() {
    #[cfg(target_env = "gnu")]
    if std::env::var_os(TUNABLES).is_none() {
        use std::os::unix::process::CommandExt;
        let mut arguments = std::env::args_os();
        if let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) {
            let mut again = std::process::Command::new(program);
            again.arg0(name).args(arguments).env(TUNABLES, "glibc.malloc.tcache_count=0");
            // It returns only where it failed.
            let _ = again.exec();
        }
    }
}

/// Gives back all pages that nothing lies in. By itself the allocator only shortens its heaps, as far
/// as the last block that is in use: a small one that lives long keeps everything below it. Threads
/// that allocate wait meanwhile.
pub fn give_back_free() {
    // SAFETY: it takes an integer by value and may be called from any thread, at any time.
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "malloc_trim(3) has no wrapper")]
    unsafe {
        libc::malloc_trim(0);
    }
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
