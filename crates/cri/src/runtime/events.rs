use cri_proto::runtime::v1;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;

use super::Answers;
use crate::error::Error;
use crate::{Edge, render};

impl Edge {
    /// Ends with the server, and where the reader falls too far behind: it then asks anew.
    pub(super) async fn get_container_events(
        &self,
        _: v1::GetEventsRequest,
    ) -> Result<Answers<v1::ContainerEventResponse>, Error> {
        let events = ReceiverStream::new(self.parts.pods.events());
        let ended = ended(self.ending.clone());
        Ok(Box::pin(events.map(|event| Ok(render::event(event))).take_until(Box::pin(ended))))
    }
}

async fn ended(mut ending: watch::Receiver<bool>) {
    // An error means that the server is gone, which is the end, too.
    let _ = ending.wait_for(|ending| *ending).await;
}
