//! `minke image`: archives in and out. The image store has one owner: the daemon where one runs,
//! which is then asked to do it, else this very process.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};

use cri_proto::minke::v1;
use cri_proto::minke::v1::archives_client::ArchivesClient;
use tonic::transport::{Channel, Endpoint};

use crate::cli::ImageCommand;
use crate::components;
use crate::failure::Failure;
use crate::settings::Settings;

/// Does it; gives what is to be printed.
pub(crate) async fn run(settings: &Settings, command: ImageCommand) -> Result<String, Failure> {
    let names = match components::image_store(settings) {
        Ok(store) => alone(&store, command).await?,
        Err(images::Error::InUse { .. }) => asked(&settings.socket, command).await?,
        Err(error) => return Err(Failure::Images(error)),
    };
    Ok(names.iter().fold(String::new(), |mut text, name| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}");
        text
    }))
}

async fn alone(store: &images::Store, command: ImageCommand) -> Result<Vec<String>, Failure> {
    match command {
        ImageCommand::Import { archive, name } => {
            let name = name.map(|name| name.parse()).transpose()?;
            let file = File::open(&archive).map_err(Failure::file("open", archive))?;
            let names = store.import(file, name).await.map_err(Failure::Archive)?;
            Ok(names.iter().map(ToString::to_string).collect())
        }
        ImageCommand::Export { archive, images } => {
            let out = File::create_new(&archive).map_err(Failure::file("make", &archive))?;
            let written = store.export(&images, out).await.map_err(Failure::Archive);
            if written.is_err() {
                // Half an archive looks like a whole one.
                let _ = std::fs::remove_file(&archive);
            }
            written.map(|()| Vec::new())
        }
    }
}

async fn asked(socket: &Path, command: ImageCommand) -> Result<Vec<String>, Failure> {
    let mut daemon = ArchivesClient::new(connect(socket).await?);
    let refused = |status: tonic::Status| Failure::Daemon { message: status.message().to_owned() };
    match command {
        ImageCommand::Import { archive, name } => {
            let (path, name) = (absolute(archive)?, name.unwrap_or_default());
            let answer = daemon.import(v1::ImportRequest { path, name }).await.map_err(refused)?;
            Ok(answer.into_inner().images)
        }
        ImageCommand::Export { archive, images } => {
            let path = absolute(archive)?;
            daemon.export(v1::ExportRequest { path, images }).await.map_err(refused)?;
            Ok(Vec::new())
        }
    }
}

async fn connect(socket: &Path) -> Result<Channel, Failure> {
    let address = format!("unix://{}", socket.display());
    let fail = |source| Failure::Connect { path: socket.to_owned(), source };
    Endpoint::from_shared(address).map_err(fail)?.connect().await.map_err(fail)
}

/// The daemon has a working directory of its own.
fn absolute(path: PathBuf) -> Result<String, Failure> {
    let absolute = std::path::absolute(&path).map_err(Failure::file("find", path))?;
    Ok(absolute.to_string_lossy().into_owned())
}
