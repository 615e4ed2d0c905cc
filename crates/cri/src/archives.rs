//! Image archives, for minke's own command line. The daemon opens the files itself: who may speak to
//! this socket is root already.

use std::fs::File;
use std::path::Path;

use cri_proto::minke::v1;
use cri_proto::minke::v1::archives_server::Archives;
use model::ImageRef;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::{Edge, parse};

#[tonic::async_trait]
impl Archives for Edge {
    async fn import(
        &self,
        request: Request<v1::ImportRequest>,
    ) -> Result<Response<v1::ImportResponse>, Status> {
        let names = self.take_archive(request.into_inner()).await?;
        Ok(Response::new(v1::ImportResponse {
            images: names.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn export(
        &self,
        request: Request<v1::ExportRequest>,
    ) -> Result<Response<v1::ExportResponse>, Status> {
        self.give_archive(request.into_inner()).await?;
        Ok(Response::new(v1::ExportResponse {}))
    }
}

impl Edge {
    async fn take_archive(&self, request: v1::ImportRequest) -> Result<Vec<ImageRef>, Error> {
        let v1::ImportRequest { path, name } = request;
        let name: Option<ImageRef> = match name.as_str() {
            "" => None,
            name => Some(name.parse()?),
        };
        let archive = opened(path, |path| File::open(path)).await?;
        Ok(self.parts.images.import(archive, name).await?)
    }

    async fn give_archive(&self, request: v1::ExportRequest) -> Result<(), Error> {
        let v1::ExportRequest { path, images } = request;
        let out = opened(path.clone(), |path| File::create_new(path)).await?;
        let written = self.parts.images.export(&images, out).await;
        if written.is_err() {
            // Half an archive looks like a whole one; that it cannot be removed changes nothing.
            let _ = tokio::fs::remove_file(path).await;
        }
        Ok(written?)
    }
}

/// Opens a file on a thread that may wait for a disk.
async fn opened(
    path: String,
    open: impl FnOnce(&Path) -> std::io::Result<File> + Send + 'static,
) -> Result<File, Error> {
    parse::absolute("path", &path)?;
    let shown = path.clone();
    let file = tokio::task::spawn_blocking(move || open(Path::new(&path))).await;
    let file = file.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    file.map_err(|source| Error::File { path: shown.into(), source })
}
