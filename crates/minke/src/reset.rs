//! Takes everything down: the end of a demo, or of minke on a node.

use crate::components;
use crate::failure::Failure;
use crate::serve::prepare;
use crate::settings::Settings;

/// Removes every pod, and then the network that they had in common. Images and directories stay.
pub(crate) async fn reset(settings: &Settings) -> Result<(), Failure> {
    prepare(settings)?;
    let (pods, _images) = components::open(settings, components::cgroups()?, None).await?;
    pods.remove_all().await.map_err(Failure::Reset)?;
    pods.flush().await.map_err(Failure::Pods)?;
    drop(pods);
    let network = network::Network::open(settings.network()).await.map_err(Failure::Network)?;
    network.destroy().await.map_err(Failure::Network)
}
