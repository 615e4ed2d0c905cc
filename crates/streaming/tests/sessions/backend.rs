//! A server with sessions made of nothing, and the means to see what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streaming::{
    AttachRequest, Config, ExecRequest, PortForwardRequest, Server, SessionError, Sessions,
    StreamSet, Streams,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Counts what goes on inside the sessions.
#[derive(Default)]
pub(crate) struct Counts {
    running: AtomicUsize,
    written: AtomicUsize,
}

impl Counts {
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    pub(crate) fn written(&self) -> usize {
        self.written.load(Ordering::SeqCst)
    }

    /// Waits until `count` sessions run, which must not take long.
    pub(crate) async fn reach(&self, count: usize) {
        for _ in 0..500 {
            if self.running() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} sessions run instead of {count}", self.running());
    }
}

struct Guard<'a>(&'a Counts);

impl<'a> Guard<'a> {
    fn new(counts: &'a Counts) -> Self {
        counts.running.fetch_add(1, Ordering::SeqCst);
        Self(counts)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) struct Backend {
    counts: Arc<Counts>,
}

impl Sessions for Backend {
    type Connection = TcpStream;

    async fn exec(&self, request: ExecRequest, mut streams: Streams) -> Result<i32, SessionError> {
        let _running = Guard::new(&self.counts);
        match request.command.join(" ").as_str() {
            "cat" => {
                let (mut stdin, mut stdout) = streams.stdin.zip(streams.stdout).ok_or("streams")?;
                tokio::io::copy(&mut stdin, &mut stdout).await?;
                Ok(0)
            }
            "both and 3" => {
                let (mut stdout, mut stderr) =
                    streams.stdout.zip(streams.stderr).ok_or("streams")?;
                stdout.write_all(b"out").await?;
                stderr.write_all(b"err").await?;
                Ok(3)
            }
            "size" => {
                let size = streams.resizes.next().await.ok_or("no size")?;
                let mut stdout = streams.stdout.ok_or("no stdout")?;
                stdout.write_all(format!("{}x{}", size.width, size.height).as_bytes()).await?;
                Ok(0)
            }
            "flood" => {
                let mut stdout = streams.stdout.ok_or("no stdout")?;
                loop {
                    let written = stdout.write(&[b'x'; 32 * 1024]).await?;
                    self.counts.written.fetch_add(written, Ordering::SeqCst);
                }
            }
            "hang" => std::future::pending().await,
            _ => Err(Box::new(std::io::Error::other("no such command"))),
        }
    }

    async fn attach(&self, _: AttachRequest, streams: Streams) -> Result<(), SessionError> {
        let _running = Guard::new(&self.counts);
        let mut text = String::new();
        streams.stdin.ok_or("no stdin")?.read_to_string(&mut text).await?;
        streams.stdout.ok_or("no stdout")?.write_all(text.to_uppercase().as_bytes()).await?;
        Ok(())
    }

    async fn port_forward(&self, pod: &str, port: u16) -> Result<TcpStream, SessionError> {
        assert_eq!(pod, "pod");
        Ok(TcpStream::connect(("127.0.0.1", port)).await?)
    }
}

/// A server that runs until it is stopped.
pub(crate) struct TestServer {
    pub(crate) server: Server<Backend>,
    pub(crate) counts: Arc<Counts>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl TestServer {
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }

    pub(crate) fn exec(&self, command: &str, streams: &str) -> String {
        let command = command.split(' ').map(str::to_owned).collect();
        let request = ExecRequest { container: "container".into(), command, streams: set(streams) };
        self.server.exec_url(request).unwrap()
    }

    pub(crate) fn attach(&self, streams: &str) -> String {
        let request = AttachRequest { container: "container".into(), streams: set(streams) };
        self.server.attach_url(request).unwrap()
    }

    pub(crate) fn port_forward(&self, ports: &[u16]) -> String {
        let request = PortForwardRequest { pod: "pod".into(), ports: ports.to_vec() };
        self.server.port_forward_url(request).unwrap()
    }
}

/// Any of the letters i, o, e and t.
pub(crate) fn set(letters: &str) -> StreamSet {
    let has = |letter| letters.contains(letter);
    StreamSet { stdin: has('i'), stdout: has('o'), stderr: has('e'), tty: has('t') }
}

pub(crate) async fn start(config: Config) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let counts = Arc::new(Counts::default());
    let backend = Arc::new(Backend { counts: Arc::clone(&counts) });
    let server = Server::new(listener.local_addr().unwrap(), config, backend);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = server.clone();
    let task = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        serving.serve(listener, stopped).await;
    });
    TestServer { server, counts, stop, task }
}

/// A port on which every connection gets its bytes back, up to their end.
pub(crate) async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = connection.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}
