use std::collections::HashMap;

use crate::Request;

/// What a spec says of its pod: the names under which containerd's tools and hooks look for them.
pub(crate) fn annotations(request: &Request<'_>) -> HashMap<String, String> {
    let pod = &request.pod.metadata;
    [
        ("container-type", "container"),
        ("sandbox-id", request.pod_id),
        ("sandbox-namespace", &pod.namespace),
        ("sandbox-uid", &pod.uid),
        ("sandbox-name", &pod.name),
        ("container-name", &request.container.metadata.name),
        ("image-name", request.image_name),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()))
    .collect()
}
