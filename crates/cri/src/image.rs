//! The image service.

use cri_proto::runtime::v1;
use cri_proto::runtime::v1::image_service_server::ImageService;
use images::Image;
use model::ImageRef;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::runtime::{Answers, batches};
use crate::{Edge, parse, render};

#[tonic::async_trait]
impl ImageService for Edge {
    type StreamImagesStream = Answers<v1::StreamImagesResponse>;

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let images = self.matching(request.into_inner().filter)?;
        let images = images.iter().map(render::image).collect();
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.matching(request.into_inner().filter)?;
        let render = |image| render::image(&image);
        let message = |images| v1::StreamImagesResponse { images };
        Ok(Response::new(batches(images, render, message)))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        let v1::ImageStatusRequest { image, verbose } = request.into_inner();
        let found = self.found(&parse::image_name(image).map_err(Error::from)?)?;
        let info = found.as_ref().filter(|_| verbose).map(render::image_info);
        Ok(Response::new(v1::ImageStatusResponse {
            image: found.as_ref().map(render::image),
            info: info.as_ref().map(render::info).unwrap_or_default(),
        }))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        let image = self.pull(request.into_inner()).await?;
        Ok(Response::new(v1::PullImageResponse { image_ref: image.id().to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let name = parse::image_name(request.into_inner().image).map_err(Error::from)?;
        self.parts.images.remove(&name).await.map_err(Error::from)?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    /// Images and writable layers lie on one file system, so the second list stays empty: that is
    /// how the interface says it.
    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        let images = &self.parts.images;
        Ok(Response::new(v1::ImageFsInfoResponse {
            image_filesystems: vec![render::filesystem(images.root(), images.usage())],
            container_filesystems: Vec::new(),
        }))
    }
}

impl Edge {
    /// The images of a list; an unknown name is an empty one.
    fn matching(&self, filter: Option<v1::ImageFilter>) -> Result<Vec<Image>, Error> {
        match parse::image_filter(filter) {
            None => Ok(self.parts.images.list()),
            Some(name) => Ok(self.found(&name)?.into_iter().collect()),
        }
    }

    fn found(&self, name: &str) -> Result<Option<Image>, Error> {
        match self.parts.images.find(name) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.kind() == images::Kind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The pod that the image is for changes nothing: every pull is alike.
    async fn pull(&self, request: v1::PullImageRequest) -> Result<Image, Error> {
        let v1::PullImageRequest { image, auth, sandbox_config: _ } = request;
        let spec = parse::image_spec("image", image)?;
        let handler = &spec.runtime_handler;
        if !handler.is_empty() && !self.parts.node.handlers.contains(handler) {
            let reason = format!("there is no runtime handler {handler:?}");
            return Err(parse::Invalid { field: "image.runtime_handler".into(), reason }.into());
        }
        let reference: ImageRef = spec.image.parse()?;
        let auth = parse::auth(auth)?;
        let pulled = self.parts.images.pull(&reference, auth).wait().await;
        pulled.map_err(|source| Error::Pull { image: spec.image, source })
    }
}
