//! Serves sessions on this machine's own processes and ports, for trying clients against.
//!
//! Each line on standard input asks for one URL, which is answered on standard output:
//!
//! ```text
//! exec <streams> <command> <arguments>...     streams: any of i, o, e, t; for example io or iot
//! attach <streams>                            connects to a `cat`
//! portforward [<port>...]
//! ```

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;

use streaming::{
    AttachRequest, Config, ExecRequest, PortForwardRequest, Resizes, Server, SessionError,
    Sessions, StreamSet, Streams, Writer,
};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

struct Local;

impl Sessions for Local {
    type Connection = TcpStream;

    async fn exec(&self, request: ExecRequest, streams: Streams) -> Result<i32, SessionError> {
        let (program, arguments) = request.command.split_first().ok_or("no command")?;
        if program == "sizes" {
            return sizes(streams.stdout.ok_or("no stdout")?, streams.resizes).await;
        }
        let piped = |wanted| if wanted { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(piped(streams.stdin.is_some()))
            .stdout(piped(streams.stdout.is_some()))
            .stderr(piped(streams.stderr.is_some()))
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some((mut from, mut to)) = streams.stdin.zip(stdin) {
                let _ = tokio::io::copy(&mut from, &mut to).await;
            }
            // Input has no say in how long the session lasts.
            std::future::pending::<()>().await;
        };
        let run = async {
            tokio::join!(drain(stdout, streams.stdout), drain(stderr, streams.stderr));
            child.wait().await
        };
        tokio::select! {
            () = feed => Ok(0),
            status = run => Ok(status?.code().unwrap_or(137)),
        }
    }

    async fn attach(&self, request: AttachRequest, streams: Streams) -> Result<(), SessionError> {
        let AttachRequest { container, streams: set } = request;
        let request = ExecRequest { container, command: vec!["cat".into()], streams: set };
        self.exec(request, streams).await.map(|_| ())
    }

    async fn port_forward(&self, _: &str, port: u16) -> Result<TcpStream, SessionError> {
        Ok(TcpStream::connect(("127.0.0.1", port)).await?)
    }
}

async fn drain(from: Option<impl AsyncRead + Unpin>, to: Option<Writer>) {
    if let Some((mut from, mut to)) = from.zip(to) {
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
}

/// Prints the sizes of the client's terminal, and ends at one of a single column.
async fn sizes(mut stdout: Writer, mut resizes: Resizes) -> Result<i32, SessionError> {
    while let Some(size) = resizes.next().await {
        stdout.write_all(format!("{}x{}\n", size.width, size.height).as_bytes()).await?;
        if size.width == 1 {
            break;
        }
    }
    Ok(0)
}

#[tokio::main]
async fn main() -> Result<(), SessionError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = Server::new(listener.local_addr()?, Config::default(), Arc::new(Local));
    let (line, mut lines) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|text| line.blocking_send(text))
    });
    let requests = async {
        while let Some(line) = lines.recv().await {
            let answer = match url(&server, &line) {
                Ok(url) => url,
                Err(error) => format!("error: {error}"),
            };
            if writeln!(std::io::stdout(), "{answer}").is_err() {
                return;
            }
        }
    };
    server.serve(listener, requests).await;
    Ok(())
}

fn url(server: &Server<Local>, line: &str) -> Result<String, SessionError> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let kind = words.next().unwrap_or_default();
    let container = "local".to_owned();
    let streams = |word: Option<String>| {
        let word = word.unwrap_or_default();
        let has = |letter| word.contains(letter);
        StreamSet { stdin: has('i'), stdout: has('o'), stderr: has('e'), tty: has('t') }
    };
    Ok(match kind.as_str() {
        "exec" => {
            let streams = streams(words.next());
            server.exec_url(ExecRequest { container, command: words.collect(), streams })?
        }
        "attach" => {
            server.attach_url(AttachRequest { container, streams: streams(words.next()) })?
        }
        "portforward" => {
            let ports = words.map(|word| word.parse()).collect::<Result<_, _>>()?;
            server.port_forward_url(PortForwardRequest { pod: container, ports })?
        }
        other => return Err(format!("unknown request {other:?}").into()),
    })
}
