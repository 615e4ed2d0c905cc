//! The socket at which the daemon serves.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tokio::net::UnixListener;

use crate::failure::Failure;

/// Listens at `path`, where root alone can connect. What a daemon that is gone left there goes.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, Failure> {
    free(path)?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(Failure::file("make", directory))?;
    }
    let listener = UnixListener::bind(path).map_err(Failure::file("listen at", path))?;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).map_err(Failure::file("close off", path))?;
    Ok(listener)
}

/// Makes sure that nobody serves at `path`, and removes a socket that nobody serves.
pub(crate) fn free(path: &Path) -> Result<(), Failure> {
    match UnixStream::connect(path) {
        Ok(_) => Err(Failure::SocketServed { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // Refused is what a socket without a listener answers, and anything that is no socket.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused && is_socket(path) => {
            std::fs::remove_file(path).map_err(Failure::file("remove", path))
        }
        Err(error) => Err(Failure::file("use the socket", path)(error)),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_served_socket_is_left_alone_and_a_dead_one_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/minke.sock");
        let first = listen(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(listen(&path), Err(Failure::SocketServed { .. })));
        drop(first);
        drop(listen(&path).unwrap());
        let file = directory.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(matches!(listen(&file), Err(Failure::File { .. })));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }
}
