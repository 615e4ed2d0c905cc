use cri_proto::runtime::v1;
use model::{Device, ImageVolume, Mount, Propagation};

use super::security::id_mappings;
use super::{Invalid, absolute, invalid, known, named, no_nul, no_parent};

/// Options of mount(8) that change a flag of one mount and nothing else: what a bind mount can have.
const OPTIONS: [&str; 16] = [
    "atime",
    "noatime",
    "dev",
    "nodev",
    "diratime",
    "nodiratime",
    "exec",
    "noexec",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "suid",
    "nosuid",
    "symfollow",
    "nosymfollow",
];

/// A volume: a path of the host or an image.
pub(super) fn mount(field: &str, mount: v1::Mount) -> Result<Mount, Invalid> {
    let v1::Mount {
        container_path,
        host_path,
        readonly,
        selinux_relabel,
        propagation,
        uid_mappings,
        gid_mappings,
        recursive_read_only,
        image,
        image_sub_path,
        mount_options,
    } = mount;
    let at = |name: &str| format!("{field}.{name}");
    absolute(&at("container_path"), &container_path)?;
    let propagation = match known(&at("propagation"), propagation)? {
        v1::MountPropagation::PropagationPrivate => Propagation::Private,
        v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    let image = match image {
        Some(image) => Some(image_volume(field, image, image_sub_path, &host_path, readonly)?),
        // The kubelet repeats the subPath of every mount in image_sub_path, and has applied it to
        // host_path already.
        None => {
            absolute(&at("host_path"), &host_path)?;
            None
        }
    };
    if recursive_read_only && !readonly {
        return Err(invalid(at("recursive_read_only"), "needs readonly"));
    }
    if recursive_read_only && propagation != Propagation::Private {
        return Err(invalid(at("recursive_read_only"), "needs private propagation"));
    }
    let uid_mappings = id_mappings(&at("uidMappings"), uid_mappings)?;
    let gid_mappings = id_mappings(&at("gidMappings"), gid_mappings)?;
    if uid_mappings.is_empty() != gid_mappings.is_empty() {
        let empty = if uid_mappings.is_empty() { "uidMappings" } else { "gidMappings" };
        return Err(invalid(at(empty), "is required where the other is given"));
    }
    for (i, option) in mount_options.iter().enumerate() {
        if !OPTIONS.contains(&option.as_str()) {
            let reason = format!("{option:?} is none of {}", OPTIONS.join(", "));
            return Err(invalid(at(&format!("mount_options[{i}]")), reason));
        }
    }
    Ok(Mount {
        container_path,
        host_path,
        readonly,
        recursive_read_only,
        selinux_relabel,
        propagation,
        uid_mappings,
        gid_mappings,
        image,
        options: mount_options,
    })
}

fn image_volume(
    field: &str,
    image: v1::ImageSpec,
    sub_path: String,
    host_path: &str,
    readonly: bool,
) -> Result<ImageVolume, Invalid> {
    // The rest of the message is about pulling, which has happened.
    let v1::ImageSpec {
        image,
        annotations: _,
        user_specified_image: _,
        runtime_handler: _,
        image_ref: _,
    } = image;
    let at = |name: &str| format!("{field}.{name}");
    named(&at("image.image"), &image)?;
    if !host_path.is_empty() {
        return Err(invalid(at("host_path"), "cannot be given together with image"));
    }
    if !readonly {
        return Err(invalid(at("readonly"), "must be true: images cannot be written to"));
    }
    no_nul(&at("image_sub_path"), &sub_path)?;
    no_parent(&at("image_sub_path"), &sub_path)?;
    if sub_path.starts_with('/') {
        return Err(invalid(at("image_sub_path"), "must be relative to the image's root"));
    }
    Ok(ImageVolume { image, sub_path })
}

/// A device of the host, at the same path where none is given for the container.
pub(super) fn device(field: &str, device: v1::Device) -> Result<Device, Invalid> {
    let v1::Device { container_path, host_path, permissions } = device;
    absolute(&format!("{field}.host_path"), &host_path)?;
    let container_path = if container_path.is_empty() { host_path.clone() } else { container_path };
    absolute(&format!("{field}.container_path"), &container_path)?;
    if permissions.is_empty() || permissions.chars().any(|c| !"rwm".contains(c)) {
        let reason = format!("{permissions:?} is not made of r, w and m");
        return Err(invalid(format!("{field}.permissions"), reason));
    }
    Ok(Device { container_path, host_path, permissions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> v1::Mount {
        v1::Mount {
            container_path: "/data".into(),
            host_path: "/srv".into(),
            readonly: true,
            ..Default::default()
        }
    }

    fn of_image() -> v1::Mount {
        let image = v1::ImageSpec { image: "busybox".into(), ..Default::default() };
        v1::Mount { host_path: String::new(), image: Some(image), ..volume() }
    }

    #[test]
    fn volumes_are_taken_as_they_are() {
        let options = vec!["noexec".to_owned(), "nosuid".into()];
        let given = v1::Mount { recursive_read_only: true, mount_options: options, ..volume() };
        let parsed = mount("m", given).unwrap();
        assert!(parsed.readonly && parsed.recursive_read_only);
        assert_eq!(parsed.options, ["noexec", "nosuid"]);
        let given = v1::Mount { image_sub_path: "etc/apk".into(), ..of_image() };
        assert_eq!(mount("m", given).unwrap().image.unwrap().sub_path, "etc/apk");
        let given = v1::Mount { image_sub_path: "x".into(), ..volume() };
        assert_eq!(mount("m", given).unwrap(), mount("m", volume()).unwrap());
    }

    #[test]
    fn each_contradiction_is_named() {
        let range = || vec![v1::IdMapping { host_id: 1, container_id: 0, length: 1 }];
        let cases = [
            (v1::Mount { container_path: "data".into(), ..volume() }, "container_path"),
            (v1::Mount { container_path: "/d\0".into(), ..volume() }, "container_path"),
            (v1::Mount { host_path: String::new(), ..volume() }, "host_path"),
            (v1::Mount { host_path: "srv".into(), ..volume() }, "host_path"),
            (v1::Mount { propagation: 3, ..volume() }, "propagation"),
            (
                v1::Mount { readonly: false, recursive_read_only: true, ..volume() },
                "recursive_read_only",
            ),
            (
                v1::Mount { propagation: 1, recursive_read_only: true, ..volume() },
                "recursive_read_only",
            ),
            (v1::Mount { uid_mappings: range(), ..volume() }, "gidMappings"),
            (v1::Mount { gid_mappings: range(), ..volume() }, "uidMappings"),
            (
                v1::Mount { mount_options: vec!["noexec".into(), "size=1".into()], ..volume() },
                "mount_options[1]",
            ),
            (v1::Mount { mount_options: vec!["rw".into()], ..volume() }, "mount_options[0]"),
            (v1::Mount { host_path: "/srv".into(), ..of_image() }, "host_path"),
            (v1::Mount { readonly: false, ..of_image() }, "readonly"),
            (v1::Mount { image_sub_path: "a/../..".into(), ..of_image() }, "image_sub_path"),
            (v1::Mount { image_sub_path: "/etc".into(), ..of_image() }, "image_sub_path"),
            (v1::Mount { image: Some(v1::ImageSpec::default()), ..of_image() }, "image.image"),
        ];
        for (given, field) in cases {
            assert_eq!(mount("m", given).unwrap_err().field, format!("m.{field}"));
        }
    }

    #[test]
    fn devices_are_checked() {
        let given = |container: &str, host: &str, permissions: &str| v1::Device {
            container_path: container.into(),
            host_path: host.into(),
            permissions: permissions.into(),
        };
        let fuse = device("d", given("", "/dev/fuse", "rwm")).unwrap();
        assert_eq!(fuse.container_path, "/dev/fuse");
        for (given, field) in [
            (given("", "", "rwm"), "d.host_path"),
            (given("", "dev/fuse", "rwm"), "d.host_path"),
            (given("fuse", "/dev/fuse", "rwm"), "d.container_path"),
            (given("", "/dev/fuse", ""), "d.permissions"),
            (given("", "/dev/fuse", "rx"), "d.permissions"),
        ] {
            assert_eq!(device("d", given).unwrap_err().field, field);
        }
    }
}
