//! System V message queues (msgget(2), msgop(2)): objects of an IPC namespace.

use std::io;

/// The longest message that [`Queue::receive`] takes, in bytes.
pub const LONGEST: usize = 1024;

/// A message queue of the caller's IPC namespace.
#[derive(Debug)]
pub struct Queue(libc::c_int);

/// The kernel's `msgbuf`: a positive type, then the text.
#[repr(C)]
struct Message {
    kind: libc::c_long,
    text: [u8; LONGEST],
}

impl Queue {
    /// Opens the queue of `key`, making it with mode 0600 if there is none.
    ///
    /// # Errors
    /// The errno of msgget(2).
    pub fn open(key: i32) -> io::Result<Self> {
        // SAFETY: msgget takes two integers and touches no memory of ours.
        #[expect(unsafe_code, reason = "rustix has no System V message queues")]
        let id = unsafe { libc::msgget(key, libc::IPC_CREAT | 0o600) };
        if id < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(id)) }
    }

    /// Adds a message; it is cut at [`LONGEST`] bytes.
    ///
    /// # Errors
    /// The errno of msgsnd(2).
    pub fn send(&self, text: &[u8]) -> io::Result<()> {
        let length = text.len().min(LONGEST);
        let mut message = Message { kind: 1, text: [0; LONGEST] };
        message.text[..length].copy_from_slice(&text[..length]);
        // SAFETY: `message` lives through the call, is laid out as msgbuf, and `length` is within
        // its text.
        #[expect(unsafe_code, reason = "rustix has no System V message queues")]
        let result = unsafe { libc::msgsnd(self.0, (&raw const message).cast(), length, 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for a message and takes it.
    ///
    /// # Errors
    /// The errno of msgrcv(2).
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut message = Message { kind: 0, text: [0; LONGEST] };
        // SAFETY: `message` lives through the call, is laid out as msgbuf, and the kernel writes at
        // most LONGEST bytes into its text.
        #[expect(unsafe_code, reason = "rustix has no System V message queues")]
        let length = unsafe { libc::msgrcv(self.0, (&raw mut message).cast(), LONGEST, 0, 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        Ok(message.text[..length].to_vec())
    }
}
