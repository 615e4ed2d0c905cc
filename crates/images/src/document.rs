//! Manifests, indexes and image configurations, OCI's and Docker's (image-spec `manifest.md`,
//! `image-index.md`, `config.md`; Docker's "Image Manifest V 2, Schema 2"). Unknown fields are
//! skipped, and null stands for an absent field, as writers in Go have it.

use std::collections::BTreeMap;

use model::Digest;
use serde::{Deserialize, Deserializer, Serialize};

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not JSON of this shape.
    #[error("it cannot be read")]
    Json(#[from] serde_json::Error),
    /// It can be read, and says something impossible.
    #[error("{0}")]
    Invalid(&'static str),
}

/// More layers than overlayfs can stack.
const MOST_LAYERS: usize = 500;

/// What a manifest or an index points to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// For which machine an image is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

/// One image for one platform.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// Several manifests, by platform.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

/// What a digest may lead to.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    /// Tells the two apart by their content: media types are often missing or wrong.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct Shape {
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
            #[serde(default, rename = "schemaVersion")]
            schema_version: u32,
        }
        let shape: Shape = serde_json::from_slice(text)?;
        match shape {
            Shape { schema_version: 1, .. } => {
                Err(DocumentError::Invalid("schema 1 manifests are not supported"))
            }
            Shape { manifests: Some(_), .. } => Ok(Self::Index(serde_json::from_slice(text)?)),
            Shape { manifests: None, .. } => {
                let manifest: Manifest = serde_json::from_slice(text)?;
                if manifest.layers.len() > MOST_LAYERS {
                    return Err(DocumentError::Invalid("it has more than 500 layers"));
                }
                Ok(Self::Manifest(manifest))
            }
        }
    }
}

impl Index {
    /// The entry that fits this machine best; attestations (`unknown/unknown`) never do.
    pub(crate) fn choose(&self) -> Option<&Descriptor> {
        let fit = |entry: &&Descriptor| match &entry.platform {
            // An index of one image need not say for what.
            None => (self.manifests.len() == 1).then_some(0),
            Some(platform) => platform.fitness(),
        };
        // Of equals the first: `max_by_key` would take the last.
        self.manifests.iter().rev().filter(|entry| fit(entry).is_some()).max_by_key(fit)
    }
}

impl Platform {
    /// How well this machine runs it; none if not at all.
    fn fitness(&self) -> Option<u32> {
        if self.os != "linux" {
            return None;
        }
        match (std::env::consts::ARCH, self.architecture.as_str()) {
            ("x86_64", "amd64") => match self.variant.as_str() {
                "" | "v1" => Some(10),
                // Compiled for what this processor may lack; better than nothing.
                "v2" => Some(5),
                "v3" => Some(4),
                "v4" => Some(3),
                _ => None,
            },
            ("x86_64", "386") => Some(1),
            ("aarch64", "arm64") => match self.variant.as_str() {
                "" | "v8" => Some(10),
                _ => Some(5),
            },
            ("aarch64", "arm") => Some(1),
            ("riscv64", "riscv64") | ("s390x", "s390x") => Some(10),
            ("powerpc64", "ppc64le") => Some(10),
            _ => None,
        }
    }
}

/// How an image wants to be run (image-spec `config.md`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `USER`: a name or number, with an optional group behind a colon; empty is root.
    pub user: String,
    /// `ENV`, as `NAME=value`.
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `WORKDIR`, empty means `/`.
    pub working_dir: String,
    /// `VOLUME`.
    pub volumes: Vec<String>,
    /// `STOPSIGNAL`, empty means SIGTERM.
    pub stop_signal: String,
    /// `LABEL`.
    pub labels: BTreeMap<String, String>,
    /// `EXPOSE`, as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// When it was made, as it says itself (RFC 3339), or empty.
    pub created: String,
    /// `amd64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default, deserialize_with = "nullable")]
    created: String,
    #[serde(default, deserialize_with = "nullable")]
    architecture: String,
    #[serde(default, deserialize_with = "nullable")]
    os: String,
    #[serde(default, deserialize_with = "nullable")]
    config: RunConfig,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default, deserialize_with = "nullable")]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RunConfig {
    #[serde(default, deserialize_with = "nullable")]
    user: String,
    #[serde(default, deserialize_with = "nullable")]
    env: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    cmd: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    working_dir: String,
    #[serde(default, deserialize_with = "nullable")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(default, deserialize_with = "nullable")]
    stop_signal: String,
    #[serde(default, deserialize_with = "nullable")]
    labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
}

/// Reads an image configuration; gives it and the layers' diff ids, the lowest first.
pub(crate) fn parse_config(text: &[u8]) -> Result<(ImageConfig, Vec<Digest>), DocumentError> {
    let file: ConfigFile = serde_json::from_slice(text)?;
    let run = file.config;
    let config = ImageConfig {
        user: run.user,
        env: run.env,
        entrypoint: run.entrypoint,
        cmd: run.cmd,
        working_dir: run.working_dir,
        volumes: run.volumes.into_keys().collect(),
        stop_signal: run.stop_signal,
        labels: run.labels,
        exposed_ports: run.exposed_ports.into_keys().collect(),
        created: file.created,
        architecture: file.architecture,
        os: file.os,
    };
    Ok((config, file.rootfs.diff_ids))
}

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(os: &str, architecture: &str, variant: &str, fill: u8) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::from_sha256([fill; 32]),
            size: 1,
            platform: Some(Platform {
                architecture: architecture.into(),
                os: os.into(),
                variant: variant.into(),
            }),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_plain_variant_of_this_platform_is_chosen_and_attestations_never() {
        let mut index = Index {
            schema_version: 2,
            media_type: String::new(),
            manifests: vec![
                entry("unknown", "unknown", "", 1),
                entry("linux", "arm64", "v8", 2),
                entry("linux", "amd64", "v3", 3),
                entry("linux", "amd64", "", 4),
                entry("linux", "amd64", "", 5),
                entry("windows", "amd64", "", 6),
            ],
        };
        assert_eq!(index.choose().unwrap().digest, Digest::from_sha256([4; 32]));
        index.manifests.drain(3..5);
        assert_eq!(index.choose().unwrap().digest, Digest::from_sha256([3; 32]));
        index.manifests.remove(2);
        assert!(index.choose().is_none());
    }

    #[test]
    fn configurations_with_nulls_and_docker_extras_are_read() {
        let text = br#"{"architecture":"amd64","os":"linux","history":null,"container":"x",
            "config":{"User":"www-data","Env":null,"Entrypoint":["/a"],"Cmd":null,"Volumes":{"/v":{}},
            "ExposedPorts":{"80/tcp":{}},"Labels":null,"Healthcheck":{"Test":["NONE"]}},
            "rootfs":{"type":"layers","diff_ids":null}}"#;
        let (config, layers) = parse_config(text).unwrap();
        assert_eq!((config.user.as_str(), config.entrypoint.len()), ("www-data", 1));
        assert_eq!(
            (config.volumes, config.exposed_ports),
            (vec!["/v".into()], vec!["80/tcp".into()])
        );
        assert!(layers.is_empty());
        assert!(parse_config(b"{}").is_err());
        assert!(parse_config(br#"{"rootfs":{"diff_ids":["../../etc"]}}"#).is_err());
    }

    #[test]
    fn documents_are_told_apart_and_schema_1_is_named() {
        assert!(matches!(
            Document::parse(br#"{"schemaVersion":2,"manifests":[]}"#),
            Ok(Document::Index(_))
        ));
        let old = Document::parse(br#"{"schemaVersion":1,"fsLayers":[]}"#).unwrap_err();
        assert!(old.to_string().contains("schema 1"));
        for bad in ["", "[]", "{}", "{\"manifests\":3}", "nul"] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(Document::Index(index)) = Document::parse(bytes) {
                index.choose();
            }
            let _ = parse_config(bytes);
        });
    }

    /// Random bytes are rarely JSON; these always are.
    #[test]
    fn no_values_in_the_right_shape_make_the_parsers_panic() {
        bolero::check!().with_type::<(String, String, u64, Vec<(u8, String)>)>().for_each(
            |(os, architecture, size, entries)| {
                let digest = Digest::from_sha256([1; 32]);
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(kind, variant)| match kind % 3 {
                        0 => serde_json::json!({"digest": digest, "size": size}),
                        1 => serde_json::json!({"digest": digest, "size": size, "platform":
                            {"os": os, "architecture": architecture, "variant": variant}}),
                        _ => serde_json::json!({"digest": variant, "size": size}),
                    })
                    .collect();
                let index = serde_json::json!({"manifests": entries}).to_string();
                if let Ok(Document::Index(index)) = Document::parse(index.as_bytes()) {
                    index.choose();
                }
                let config = serde_json::json!({"os": os, "config": {"User": architecture},
                    "rootfs": {"diff_ids": entries}});
                let _ = parse_config(config.to_string().as_bytes());
            },
        );
    }
}
