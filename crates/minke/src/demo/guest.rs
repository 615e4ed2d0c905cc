//! What runs inside the demo's containers: a small HTTP server and its client, in minke's own binary.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use sys::message_queue::Queue;

/// The port that the server answers on.
pub(crate) const PORT: u16 = 8080;
/// The file that carries a message through the pod's shared memory.
const SHARED: &str = "/dev/shm/minke-demo";
/// The message queue of the pod's IPC namespace that says that it is there.
const QUEUE: i32 = 0x6d69_6e6b;

/// What a container of the demo is asked to do.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Guest {
    /// Answer HTTP requests and print messages that come through shared memory.
    Serve,
    /// Print the page at an address.
    Fetch {
        /// `host:port`.
        address: String,
    },
    /// Pass a message through shared memory and tell the server through the message queue.
    Send {
        /// The message.
        text: String,
    },
    /// Sleep until a signal comes.
    Wait,
}

/// One line of standard output, whole: containers' logs are read line by line.
fn line(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Does it.
///
/// # Errors
/// Whatever the kernel refused.
pub(crate) fn run(guest: &Guest) -> std::io::Result<()> {
    match guest {
        Guest::Serve => serve(),
        Guest::Fetch { address } => line(fetch(address)?.trim_end()),
        Guest::Send { text } => send(text),
        Guest::Wait => loop {
            std::thread::park();
        },
    }
}

fn serve() -> std::io::Result<()> {
    let listener =
        TcpListener::bind(("::", PORT)).or_else(|_| TcpListener::bind(("0.0.0.0", PORT)))?;
    let queue = Queue::open(QUEUE)?;
    std::thread::spawn(move || {
        while let Ok(bell) = queue.receive() {
            let text = std::fs::read_to_string(SHARED).unwrap_or_else(|error| error.to_string());
            let _ = line(&format!("{}: {text}", String::from_utf8_lossy(&bell)));
        }
    });
    line(&format!("listening on port {PORT}"))?;
    std::thread::spawn(|| {
        let mut beat = 0_u64;
        loop {
            std::thread::sleep(Duration::from_millis(100));
            beat += 1;
            if line(&format!("beat {beat}")).is_err() {
                return;
            }
        }
    });
    for connection in listener.incoming() {
        // One client's failure is not the server's.
        if let Err(error) = connection.and_then(answer) {
            let _ = writeln!(std::io::stderr(), "a request failed: {error}");
        }
    }
    Ok(())
}

fn answer(connection: TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let from = connection.peer_addr()?;
    let mut reader = BufReader::new(connection.try_clone()?.take(64 * 1024));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let body = format!("a page from {}, asked by {}\n", host.trim(), from.ip().to_canonical());
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    (&connection).write_all((head + &body).as_bytes())?;
    line(&format!("{} from {}", request.trim(), from.ip().to_canonical()))
}

/// The body of `GET /` at `host:port`, waiting up to 5 s for an answer.
///
/// # Errors
/// No connection, no answer, or one that is not `200`.
pub(crate) fn fetch(address: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.take(64 * 1024).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(format!("{address} answered without a page"))),
    }
}

fn send(text: &str) -> std::io::Result<()> {
    std::fs::write(Path::new(SHARED), text)?;
    Queue::open(QUEUE)?.send(b"message through shared memory")
}
