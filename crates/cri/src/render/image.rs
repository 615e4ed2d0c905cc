use std::path::Path;

use cri_proto::runtime::v1;
use images::{Image, Usage};
use model::Timestamp;
use serde_json::{Value, json};

use super::count;

/// An image with all its names.
pub(crate) fn image(image: &Image) -> v1::Image {
    let (uid, username) = user(&image.config().user);
    v1::Image {
        id: image.id().to_string(),
        repo_tags: image.repo_tags(),
        repo_digests: image.repo_digests(),
        size: image.size(),
        uid: uid.map(|value| v1::Int64Value { value }),
        username,
        spec: None,
        pinned: image.pinned(),
    }
}

/// Whom an image runs as: a number, or a name; the group is of no interest here. The kubelet checks
/// `runAsNonRoot` by it.
fn user(user: &str) -> (Option<i64>, String) {
    let name = user.split_once(':').map_or(user, |(name, _)| name);
    match name.parse::<u32>() {
        Ok(uid) => (Some(uid.into()), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

/// What a verbose answer tells of an image: its configuration as it was published, where tools look
/// for it, and where its layers lie.
pub(crate) fn image_info(image: &Image) -> Value {
    let config = serde_json::from_str::<Value>(image.config_text()).unwrap_or_default();
    let layers: Vec<_> = image.layers().iter().map(|path| path.display().to_string()).collect();
    json!({ "imageSpec": config, "layers": layers })
}

/// What a store takes of the file system that it lies on.
pub(crate) fn filesystem(root: &Path, usage: Usage) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: Timestamp::now().0,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: root.display().to_string() }),
        used_bytes: count(usage.bytes),
        inodes_used: count(usage.inodes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_number_or_a_name() {
        assert_eq!(user(""), (None, String::new()));
        assert_eq!(user("0"), (Some(0), String::new()));
        assert_eq!(user("1002:users"), (Some(1002), String::new()));
        assert_eq!(user("www-data:www-data"), (None, "www-data".into()));
    }
}
