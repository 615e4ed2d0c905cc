use cri_proto::runtime::v1;
use model::{ContainerMetadata, ContainerSpec, Signal};

use super::mount::{device, mount};
use super::{
    Invalid, absolute, image_spec, invalid, known, named, no_nul, no_parent, required, resources,
    security,
};

/// A device of the Container Device Interface is asked for by an annotation that begins so.
const CDI_ANNOTATION: &str = "cdi.k8s.io/";

/// Everything that a caller asks of a container.
pub(crate) fn container_spec(
    config: Option<v1::ContainerConfig>,
) -> Result<ContainerSpec, Invalid> {
    let v1::ContainerConfig {
        metadata,
        image,
        command,
        args,
        working_dir,
        envs,
        mounts,
        devices,
        labels,
        annotations,
        log_path,
        stdin,
        stdin_once,
        tty,
        linux,
        windows: _,
        cdi_devices,
        stop_signal,
    } = required("config", config)?;
    words("command", &command)?;
    words("args", &args)?;
    if !working_dir.is_empty() {
        absolute("working_dir", &working_dir)?;
    }
    no_cdi(&cdi_devices, annotations.keys())?;
    let at = |list: &str, i: usize| format!("{list}[{i}]");
    let container = ContainerSpec {
        metadata: container_metadata(metadata)?,
        image: image_spec("image", image)?,
        command,
        args,
        working_dir,
        envs: numbered(envs, |i, pair| environment(&at("envs", i), pair))?,
        mounts: numbered(mounts, |i, volume| mount(&at("mounts", i), volume))?,
        devices: numbered(devices, |i, node| device(&at("devices", i), node))?,
        labels,
        annotations,
        log_path: log_path_of(log_path)?,
        stdin,
        stdin_once,
        tty,
        stop_signal: signal(stop_signal)?,
        ..ContainerSpec::default()
    };
    let v1::LinuxContainerConfig { resources: limits, security_context } =
        linux.unwrap_or_default();
    Ok(ContainerSpec {
        resources: resources("linux.resources", limits.unwrap_or_default())?,
        security: security::container(
            "linux.security_context",
            security_context.unwrap_or_default(),
        )?,
        ..container
    })
}

fn numbered<T, U>(
    items: Vec<T>,
    mut parse: impl FnMut(usize, T) -> Result<U, Invalid>,
) -> Result<Vec<U>, Invalid> {
    items.into_iter().enumerate().map(|(i, item)| parse(i, item)).collect()
}

fn container_metadata(
    metadata: Option<v1::ContainerMetadata>,
) -> Result<ContainerMetadata, Invalid> {
    let v1::ContainerMetadata { name, attempt } = required("metadata", metadata)?;
    named("metadata.name", &name)?;
    Ok(ContainerMetadata { name, attempt })
}

fn words(field: &str, words: &[String]) -> Result<(), Invalid> {
    words.iter().enumerate().try_for_each(|(i, word)| no_nul(&format!("{field}[{i}]"), word))
}

fn no_cdi<'a>(
    devices: &[v1::CdiDevice],
    annotations: impl Iterator<Item = &'a String>,
) -> Result<(), Invalid> {
    let reason = "devices by CDI name are not supported";
    if let Some(v1::CdiDevice { name }) = devices.first() {
        return Err(invalid("CDI_devices[0].name", format!("{name:?}: {reason}")));
    }
    match annotations.into_iter().find(|key| key.starts_with(CDI_ANNOTATION)) {
        Some(key) => Err(invalid(format!("annotations[{key}]"), reason)),
        None => Ok(()),
    }
}

/// The wire carries bytes; the OCI runtime specification, and so everything behind, carries text.
fn environment(field: &str, pair: v1::KeyValue) -> Result<(String, String), Invalid> {
    let v1::KeyValue { key, value } = pair;
    named(&format!("{field}.key"), &key)?;
    if key.contains('=') {
        return Err(invalid(format!("{field}.key"), format!("{key:?} contains \"=\"")));
    }
    let at = format!("{field}.value");
    let value =
        String::from_utf8(value).map_err(|_| invalid(&at, format!("of {key:?} is not UTF-8")))?;
    no_nul(&at, &value)?;
    Ok((key, value))
}

/// Relative to the pod's log directory, and inside it.
fn log_path_of(path: String) -> Result<Option<String>, Invalid> {
    if path.is_empty() {
        return Ok(None);
    }
    no_nul("log_path", &path)?;
    no_parent("log_path", &path)?;
    if path.starts_with('/') {
        return Err(invalid("log_path", "must be relative to the pod's log_directory"));
    }
    Ok(Some(path))
}

/// The interface numbers signals in its own way, but names them as the kernel does:
/// `SIGNAL_SIGRTMINPLUS3` is `SIGRTMIN+3`.
fn signal(number: i32) -> Result<Option<Signal>, Invalid> {
    let known: v1::Signal = known("stop_signal", number)?;
    if known == v1::Signal::RuntimeDefault {
        return Ok(None);
    }
    let name = known.as_str_name().trim_start_matches("SIGNAL_");
    let name = name.replace("PLUS", "+").replace("MINUS", "-");
    name.parse().map(Some).map_err(|error| invalid("stop_signal", format!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 1 }),
            image: Some(v1::ImageSpec { image: "busybox".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut v1::ContainerConfig)) -> String {
        let mut config = config();
        change(&mut config);
        container_spec(Some(config)).unwrap_err().field
    }

    fn pair(key: &str, value: &[u8]) -> v1::KeyValue {
        v1::KeyValue { key: key.into(), value: value.into() }
    }

    #[test]
    fn a_plain_container_is_taken() {
        let config = v1::ContainerConfig {
            envs: vec![pair("A", b"1"), pair("A", "ü=".as_bytes())],
            log_path: "c/0.log".into(),
            stop_signal: v1::Signal::Sigrtminplus3.into(),
            ..config()
        };
        let container = container_spec(Some(config)).unwrap();
        assert_eq!(container.envs[1], ("A".into(), "ü=".into()));
        assert_eq!(container.log_path.as_deref(), Some("c/0.log"));
        assert_eq!(container.stop_signal.unwrap().number(), 37);
        assert_eq!(container.metadata.attempt, 1);
    }

    #[test]
    fn each_field_that_cannot_be_honoured_is_named() {
        assert_eq!(container_spec(None).unwrap_err().field, "config");
        assert_eq!(refused(|c| c.metadata = None), "metadata");
        assert_eq!(refused(|c| c.metadata = Some(Default::default())), "metadata.name");
        assert_eq!(refused(|c| c.image = None), "image");
        assert_eq!(refused(|c| c.image = Some(Default::default())), "image.image");
        assert_eq!(refused(|c| c.command = vec!["a".into(), "\0".into()]), "command[1]");
        assert_eq!(refused(|c| c.args = vec!["\0".into()]), "args[0]");
        assert_eq!(refused(|c| c.working_dir = "srv".into()), "working_dir");
        assert_eq!(refused(|c| c.envs = vec![pair("", b"1")]), "envs[0].key");
        assert_eq!(refused(|c| c.envs = vec![pair("A=B", b"1")]), "envs[0].key");
        assert_eq!(refused(|c| c.envs = vec![pair("A", b"\xff")]), "envs[0].value");
        assert_eq!(refused(|c| c.envs = vec![pair("A", b"\0")]), "envs[0].value");
        assert_eq!(refused(|c| c.mounts = vec![Default::default()]), "mounts[0].container_path");
        assert_eq!(refused(|c| c.devices = vec![Default::default()]), "devices[0].host_path");
        assert_eq!(refused(|c| c.log_path = "/var/log/c".into()), "log_path");
        assert_eq!(refused(|c| c.log_path = "../c".into()), "log_path");
        assert_eq!(refused(|c| c.stop_signal = 66), "stop_signal");
        assert_eq!(refused(|c| c.cdi_devices = vec![Default::default()]), "CDI_devices[0].name");
        let annotation = ("cdi.k8s.io/gpu".to_owned(), "vendor.com/gpu=0".to_owned());
        assert_eq!(refused(|c| c.annotations.extend([annotation])), "annotations[cdi.k8s.io/gpu]");
        let negative = v1::LinuxContainerResources { cpu_period: -1, ..Default::default() };
        assert_eq!(
            refused(|c| c.linux.get_or_insert_default().resources = Some(negative)),
            "linux.resources.cpu_period"
        );
    }

    #[test]
    fn every_signal_of_the_interface_has_a_number() {
        let numbers: Vec<_> = (1..=65).map(|n| signal(n).unwrap().unwrap().number()).collect();
        assert!(numbers.iter().all(|n| (1..=64).contains(n)));
        assert_eq!(signal(0).unwrap(), None);
        assert_eq!(signal(v1::Signal::Sigterm.into()).unwrap(), Some(Signal::TERM));
        assert_eq!(signal(v1::Signal::Sigrtmaxminus14.into()).unwrap().unwrap().number(), 50);
    }

    #[test]
    fn what_has_no_effect_here_is_taken() {
        let annotation = ("vendor.example/anything".to_owned(), "x".to_owned());
        let config = v1::ContainerConfig {
            windows: Some(v1::WindowsContainerConfig::default()),
            annotations: [annotation].into(),
            stdin_once: true,
            ..config()
        };
        assert_eq!(container_spec(Some(config)).unwrap().annotations.len(), 1);
    }
}
