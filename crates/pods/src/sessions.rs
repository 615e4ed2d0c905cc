//! Exec, attach and port-forward for the streaming server.

use std::io;
use std::sync::Arc;

use executor::prepare::StdioSource;
use streaming::{AttachRequest, ExecRequest, SessionError, Sessions, Streams};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::Error;
use crate::exec::{Execution, Kind, input_pipe, null, output_pipe};
use crate::runtime::Runtime;
use crate::terminal::Terminal;

impl Sessions for Runtime {
    type Connection = TcpStream;

    async fn exec(&self, request: ExecRequest, streams: Streams) -> Result<i32, SessionError> {
        let container = self.0.index.container(&request.container)?;
        let code = if request.streams.tty {
            let stdio = StdioSource::Terminal(crate::exec::no_window());
            let mut execution =
                self.0.execute(&container, &request.command, stdio, Kind::Streamed).await?;
            on_terminal(&mut execution, streams).await?
        } else {
            self.with_pipes(&container, &request.command, streams).await?
        };
        Ok(code)
    }

    async fn attach(&self, request: AttachRequest, streams: Streams) -> Result<(), SessionError> {
        let container = self.0.index.container(&request.container)?;
        container.running()?;
        let keeper = self.0.index.pod(container.pod.as_str())?.keeper()?;
        let Streams { stdin, stdout, stderr, mut resizes } = streams;
        let (mut keeper_in, mut keeper_out, mut keeper_err) = (None, None, None);
        let (mut input, mut output, mut errors) = (None, None, None);
        if let Some(stdin) = stdin {
            let (writer, end) = input_pipe()?;
            keeper_in = Some(end);
            input = Some((stdin, writer));
        }
        if let Some(stdout) = stdout {
            let (reader, end) = output_pipe()?;
            keeper_out = Some(end);
            output = Some((reader, stdout));
        }
        if let Some(stderr) = stderr {
            let (reader, end) = output_pipe()?;
            keeper_err = Some(end);
            errors = Some((reader, stderr));
        }
        keeper.attach(&container.id, keeper_in, keeper_out, keeper_err).await?;
        let resizing = async {
            while let Some(size) = resizes.next().await {
                if size.width > 0 && size.height > 0 {
                    let size = keeper::TerminalSize { columns: size.width, rows: size.height };
                    // The container may have ended meanwhile.
                    let _ = keeper.resize_terminal(&container.id, size).await;
                }
            }
            std::future::pending::<()>().await;
        };
        let only_input = output.is_none() && errors.is_none();
        let pumping = async {
            let outputs = async { tokio::join!(pump_all(output), pump_all(errors)) };
            let inputs = pump_all(input);
            if only_input {
                tokio::select! {
                    () = inputs => {}
                    () = container.end() => {}
                }
            } else {
                // The container's end is no end of this: what it said last is in the pipes and in
                // the keeper, which closes them when it has given everything, or when the client
                // has taken nothing for ten seconds.
                // Input may end long before output, and need not end at all.
                tokio::pin!(inputs, outputs);
                let mut open = true;
                loop {
                    tokio::select! {
                        _ = &mut outputs => break,
                        () = &mut inputs, if open => open = false,
                    }
                }
            }
        };
        tokio::select! {
            () = pumping => {}
            () = resizing => {}
        }
        Ok(())
    }

    async fn port_forward(&self, pod: &str, port: u16) -> Result<TcpStream, SessionError> {
        let pod = self.0.index.pod(pod)?;
        let socket = pod.keeper()?.dial(port).await?;
        let socket = std::net::TcpStream::from(socket);
        socket.set_nonblocking(true)?;
        Ok(TcpStream::from_std(socket)?)
    }
}

impl Runtime {
    async fn with_pipes(
        &self,
        container: &Arc<crate::container::Container>,
        command: &[String],
        streams: Streams,
    ) -> Result<i32, SessionError> {
        let Streams { stdin, stdout, stderr, resizes: _ } = streams;
        let (mut files, mut input) = ([null()?, null()?, null()?], None);
        let (mut output, mut errors) = (None, None);
        if let Some(stdin) = stdin {
            let (writer, end) = input_pipe()?;
            files[0] = end;
            input = Some((stdin, writer));
        }
        if let Some(stdout) = stdout {
            let (reader, end) = output_pipe()?;
            files[1] = end;
            output = Some((reader, stdout));
        }
        if let Some(stderr) = stderr {
            let (reader, end) = output_pipe()?;
            files[2] = end;
            errors = Some((reader, stderr));
        }
        let stdio = StdioSource::Files(files);
        let mut execution = self.0.execute(container, command, stdio, Kind::Streamed).await?;
        let inputs = pump_all(input);
        let outputs = async { tokio::join!(pump_all(output), pump_all(errors)) };
        tokio::pin!(inputs, outputs);
        let (mut open, mut read) = (true, false);
        let code = loop {
            tokio::select! {
                code = execution.exit_code() => break code?,
                () = &mut inputs, if open => open = false,
                _ = &mut outputs, if !read => read = true,
            }
        };
        if !read {
            // A child that it left behind may hold the pipes for ever.
            let _ = tokio::time::timeout(self.0.config.drain, outputs).await;
        }
        Ok(code)
    }
}

/// Connects an execution's terminal to the client until the process ends.
async fn on_terminal(execution: &mut Execution, streams: Streams) -> Result<i32, SessionError> {
    let Streams { stdin, stdout, stderr: _, mut resizes } = streams;
    let none = Error::Internal("a command on a terminal came without one");
    let terminal = Terminal::new(execution.process.terminal.take().ok_or(none)?)?;
    let inputs = pump_all(stdin.map(|stdin| (stdin, terminal.clone())));
    let outputs = pump_all(stdout.map(|stdout| (terminal.clone(), stdout)));
    let resizing = async {
        while let Some(size) = resizes.next().await {
            terminal.resize(size);
        }
    };
    tokio::pin!(inputs, outputs, resizing);
    let (mut input_open, mut resize_open, mut read) = (true, true, false);
    let code = loop {
        tokio::select! {
            code = execution.exit_code() => break code?,
            () = &mut inputs, if input_open => input_open = false,
            () = &mut resizing, if resize_open => resize_open = false,
            () = &mut outputs, if !read => read = true,
        }
    };
    if !read {
        // The kernel keeps what was written last until it is read.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), outputs).await;
    }
    Ok(code)
}

/// Copies from one side to the other to the end, and passes the end on.
async fn pump_all<R, W>(ends: Option<(R, W)>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if let Some((mut from, mut to)) = ends {
        // Either side may break off: the other then sees the end.
        let copied: io::Result<u64> = tokio::io::copy(&mut from, &mut to).await;
        drop(copied);
        let _ = to.shutdown().await;
    }
}
