use cri_proto::runtime::v1;
use cri_proto::runtime::v1::NamespaceMode;
use cri_proto::runtime::v1::security_profile::ProfileType;
use model::{
    Capabilities, Groups, IdMapping, IpcMode, NamespaceModes, NetworkMode, PidMode, Profile,
    SeLinux, SecurityContext, SupplementalGroupsPolicy, User, UserNamespace,
};

use super::{Invalid, id, invalid, known, named, no_nul, optional_id};

/// The privileges of a pod. It has no process of its own image: user, groups and root file system
/// are checked and kept, and change nothing.
pub(super) fn sandbox(
    field: &str,
    context: v1::LinuxSandboxSecurityContext,
) -> Result<SecurityContext, Invalid> {
    #[expect(deprecated, reason = "older callers still send it")]
    let v1::LinuxSandboxSecurityContext {
        namespace_options,
        selinux_options,
        run_as_user,
        run_as_group,
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy,
        privileged,
        seccomp,
        apparmor,
        seccomp_profile_path,
    } = context;
    let at = |name: &str| format!("{field}.{name}");
    let namespaces = namespaces(&at("namespace_options"), namespace_options)?;
    if let PidMode::Target(_) = namespaces.pid {
        let reason = "a pod cannot join a container's processes, only a container can";
        return Err(invalid(at("namespace_options.pid"), reason));
    }
    Ok(SecurityContext {
        namespaces,
        user: user(field, run_as_user, run_as_group, String::new())?,
        groups: groups(field, supplemental_groups, supplemental_groups_policy)?,
        privileged,
        readonly_rootfs,
        seccomp: seccomp_profile(field, seccomp, &seccomp_profile_path)?,
        apparmor: profile(&at("apparmor"), apparmor)?,
        selinux: selinux_options
            .map(|options| selinux(&at("selinux_options"), options))
            .transpose()?,
        ..SecurityContext::default()
    })
}

/// User, privileges and namespaces of a container.
///
/// Masked and read-only paths are exactly the listed ones, as containerd reads them: the kubelet
/// sends the default list itself, and an empty one is its way to ask for an unmasked /proc.
pub(super) fn container(
    field: &str,
    context: v1::LinuxContainerSecurityContext,
) -> Result<SecurityContext, Invalid> {
    #[expect(deprecated, reason = "older callers still send them")]
    let v1::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options,
        selinux_options,
        run_as_user,
        run_as_group,
        run_as_username,
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy,
        no_new_privs,
        masked_paths,
        readonly_paths,
        seccomp,
        apparmor,
        apparmor_profile,
        seccomp_profile_path,
    } = context;
    let at = |name: &str| format!("{field}.{name}");
    for (name, paths) in [("masked_paths", &masked_paths), ("readonly_paths", &readonly_paths)] {
        for (i, path) in paths.iter().enumerate() {
            super::absolute(&at(&format!("{name}[{i}]")), path)?;
        }
    }
    Ok(SecurityContext {
        namespaces: namespaces(&at("namespace_options"), namespace_options)?,
        user: user(field, run_as_user, run_as_group, run_as_username)?,
        groups: groups(field, supplemental_groups, supplemental_groups_policy)?,
        privileged,
        readonly_rootfs,
        capabilities: capabilities_of(&at("capabilities"), capabilities.unwrap_or_default())?,
        no_new_privs,
        masked_paths: Some(masked_paths),
        readonly_paths: Some(readonly_paths),
        seccomp: seccomp_profile(field, seccomp, &seccomp_profile_path)?,
        apparmor: either_profile(
            field,
            "apparmor",
            apparmor,
            "apparmor_profile",
            &apparmor_profile,
        )?,
        selinux: selinux_options
            .map(|options| selinux(&at("selinux_options"), options))
            .transpose()?,
    })
}

/// Absent options are those of the wire's zero: everything is the pod's, the users are the host's.
fn namespaces(
    field: &str,
    options: Option<v1::NamespaceOption>,
) -> Result<NamespaceModes, Invalid> {
    let v1::NamespaceOption { network, pid, ipc, target_id, userns_options } =
        options.unwrap_or_default();
    let at = |name: &str| format!("{field}.{name}");
    let only = |name: &str| invalid(at(name), "only POD and NODE are possible");
    let network = match known(&at("network"), network)? {
        NamespaceMode::Pod => NetworkMode::Pod,
        NamespaceMode::Node => NetworkMode::Node,
        NamespaceMode::Container | NamespaceMode::Target => return Err(only("network")),
    };
    let ipc = match known(&at("ipc"), ipc)? {
        NamespaceMode::Pod => IpcMode::Pod,
        NamespaceMode::Node => IpcMode::Node,
        NamespaceMode::Container | NamespaceMode::Target => return Err(only("ipc")),
    };
    let mode = known(&at("pid"), pid)?;
    if mode != NamespaceMode::Target && !target_id.is_empty() {
        return Err(invalid(at("target_id"), "has a meaning only with pid TARGET"));
    }
    let pid = match mode {
        NamespaceMode::Pod => PidMode::Pod,
        NamespaceMode::Container => PidMode::Container,
        NamespaceMode::Node => PidMode::Node,
        NamespaceMode::Target if target_id.is_empty() => {
            return Err(invalid(at("target_id"), "is required with pid TARGET"));
        }
        NamespaceMode::Target => PidMode::Target(target_id),
    };
    let user = match userns_options {
        None => None,
        Some(options) => user_namespace(&at("userns_options"), options)?,
    };
    Ok(NamespaceModes { network, pid, ipc, user })
}

fn user_namespace(
    field: &str,
    options: v1::UserNamespace,
) -> Result<Option<UserNamespace>, Invalid> {
    let v1::UserNamespace { mode, uids, gids } = options;
    let at = |name: &str| format!("{field}.{name}");
    match known(&at("mode"), mode)? {
        NamespaceMode::Node if uids.is_empty() && gids.is_empty() => Ok(None),
        NamespaceMode::Node => {
            let name = if uids.is_empty() { "gids" } else { "uids" };
            Err(invalid(at(name), "mappings have a meaning only with mode POD"))
        }
        NamespaceMode::Pod => Ok(Some(UserNamespace {
            uids: pod_mapping(&at("uids"), uids)?,
            gids: pod_mapping(&at("gids"), gids)?,
        })),
        NamespaceMode::Container | NamespaceMode::Target => {
            Err(invalid(at("mode"), "only POD and NODE are possible"))
        }
    }
}

fn pod_mapping(field: &str, mappings: Vec<v1::IdMapping>) -> Result<Vec<IdMapping>, Invalid> {
    let mappings = id_mappings(field, mappings)?;
    match mappings.as_slice() {
        [only] if only.container_id == 0 => Ok(mappings),
        [_] => Err(invalid(format!("{field}[0].container_id"), "must be 0, root has to be mapped")),
        _ => Err(invalid(field, "exactly one range is required")),
    }
}

/// Ranges as they stand, each within 32 bits.
pub(super) fn id_mappings(
    field: &str,
    mappings: Vec<v1::IdMapping>,
) -> Result<Vec<IdMapping>, Invalid> {
    let mapping = |(i, mapping)| {
        let v1::IdMapping { host_id, container_id, length } = mapping;
        let ends = |first: u32| first.checked_add(length).is_some();
        if length == 0 || !ends(host_id) || !ends(container_id) {
            let reason = format!("a range of {length} ids from {host_id} on is not possible");
            return Err(invalid(format!("{field}[{i}].length"), reason));
        }
        Ok(IdMapping { container_id, host_id, length })
    };
    mappings.into_iter().enumerate().map(mapping).collect()
}

fn user(
    field: &str,
    uid: Option<v1::Int64Value>,
    gid: Option<v1::Int64Value>,
    name: String,
) -> Result<User, Invalid> {
    let uid = optional_id(&format!("{field}.run_as_user"), uid)?;
    let gid = optional_id(&format!("{field}.run_as_group"), gid)?;
    no_nul(&format!("{field}.run_as_username"), &name)?;
    match (uid, name) {
        (Some(uid), name) if name.is_empty() => Ok(User::Id { uid, gid }),
        (Some(_), _) => {
            Err(invalid(format!("{field}.run_as_username"), "run_as_user is given as well"))
        }
        (None, name) if !name.is_empty() => Ok(User::Name { name, gid }),
        (None, _) if gid.is_some() => {
            Err(invalid(format!("{field}.run_as_group"), "needs run_as_user or run_as_username"))
        }
        (None, _) => Ok(User::Image),
    }
}

fn groups(field: &str, ids: Vec<i64>, policy: i32) -> Result<Groups, Invalid> {
    let group = |(i, value)| id(&format!("{field}.supplemental_groups[{i}]"), value);
    let ids = ids.into_iter().enumerate().map(group).collect::<Result<_, _>>()?;
    let policy = match known(&format!("{field}.supplemental_groups_policy"), policy)? {
        v1::SupplementalGroupsPolicy::Merge => SupplementalGroupsPolicy::Merge,
        v1::SupplementalGroupsPolicy::Strict => SupplementalGroupsPolicy::Strict,
    };
    Ok(Groups { ids, policy })
}

/// Names are taken with or without `CAP_` and in any case; whether the kernel knows one is seen
/// where the set is built.
fn capabilities_of(field: &str, capability: v1::Capability) -> Result<Capabilities, Invalid> {
    let v1::Capability { add_capabilities, drop_capabilities, add_ambient_capabilities } =
        capability;
    let names = |list: &str, names: Vec<String>| -> Result<Vec<String>, Invalid> {
        let name = |(i, name): (usize, String)| {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if short.is_empty() || !short.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
                let reason = format!("{name:?} is not the name of a capability");
                return Err(invalid(format!("{field}.{list}[{i}]"), reason));
            }
            Ok(short.to_owned())
        };
        names.into_iter().enumerate().map(name).collect()
    };
    Ok(Capabilities {
        add: names("add_capabilities", add_capabilities)?,
        drop: names("drop_capabilities", drop_capabilities)?,
        add_ambient: names("add_ambient_capabilities", add_ambient_capabilities)?,
    })
}

fn seccomp_profile(
    field: &str,
    given: Option<v1::SecurityProfile>,
    old: &str,
) -> Result<Profile, Invalid> {
    let found = either_profile(field, "seccomp", given, "seccomp_profile_path", old)?;
    if let Profile::Localhost(path) = &found {
        super::absolute(&format!("{field}.seccomp.localhost_ref"), path)?;
    }
    Ok(found)
}

/// A profile in its new form or in its deprecated one. The kubelet sends both for AppArmor, so both
/// may be there if they say the same.
fn either_profile(
    field: &str,
    name: &str,
    given: Option<v1::SecurityProfile>,
    old_name: &str,
    old: &str,
) -> Result<Profile, Invalid> {
    let old_field = format!("{field}.{old_name}");
    let old = named_profile(&old_field, old)?;
    let new = profile(&format!("{field}.{name}"), given)?;
    match (old, new) {
        (Profile::Unset, found) | (found, Profile::Unset) => Ok(found),
        (old, new) if old == new => Ok(new),
        _ => Err(invalid(old_field, format!("is deprecated and contradicts {name}"))),
    }
}

fn profile(field: &str, profile: Option<v1::SecurityProfile>) -> Result<Profile, Invalid> {
    let Some(v1::SecurityProfile { profile_type, localhost_ref }) = profile else {
        return Ok(Profile::Unset);
    };
    let reference = format!("{field}.localhost_ref");
    let found = match known(&format!("{field}.profile_type"), profile_type)? {
        ProfileType::Localhost => {
            // Callers that came from the old string form still write its prefix.
            let name = localhost_ref.strip_prefix("localhost/").unwrap_or(&localhost_ref);
            named(&reference, name)?;
            return Ok(Profile::Localhost(name.to_owned()));
        }
        ProfileType::RuntimeDefault => Profile::RuntimeDefault,
        ProfileType::Unconfined => Profile::Unconfined,
    };
    if !localhost_ref.is_empty() {
        return Err(invalid(reference, "has a meaning only with profile type Localhost"));
    }
    Ok(found)
}

/// The form of the deprecated fields.
fn named_profile(field: &str, text: &str) -> Result<Profile, Invalid> {
    match text {
        "" => Ok(Profile::Unset),
        "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
        "unconfined" => Ok(Profile::Unconfined),
        text => match text.strip_prefix("localhost/") {
            Some(name) => {
                named(field, name)?;
                Ok(Profile::Localhost(name.to_owned()))
            }
            None => {
                let reason =
                    format!("{text:?} is none of runtime/default, unconfined, localhost/<profile>");
                Err(invalid(field, reason))
            }
        },
    }
}

fn selinux(field: &str, options: v1::SeLinuxOption) -> Result<SeLinux, Invalid> {
    let v1::SeLinuxOption { user, role, r#type, level } = options;
    for (name, part) in [("user", &user), ("role", &role), ("type", &r#type)] {
        if part.contains([':', '\0', '\n', ' ']) {
            return Err(invalid(
                format!("{field}.{name}"),
                "has a character that labels cannot have",
            ));
        }
    }
    no_nul(&format!("{field}.level"), &level)?;
    Ok(SeLinux { user, role, type_: r#type, level })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> String {
        let mut context = v1::LinuxContainerSecurityContext::default();
        change(&mut context);
        container("s", context).unwrap_err().field
    }

    fn options(change: impl FnOnce(&mut v1::NamespaceOption)) -> Option<v1::NamespaceOption> {
        let mut options = v1::NamespaceOption::default();
        change(&mut options);
        Some(options)
    }

    fn range(container_id: u32, host_id: u32, length: u32) -> v1::IdMapping {
        v1::IdMapping { host_id, container_id, length }
    }

    #[test]
    fn namespaces_that_cannot_be_had_are_named() {
        let cases = [
            (options(|o| o.network = 1), "network"),
            (options(|o| o.network = 3), "network"),
            (options(|o| o.network = 4), "network"),
            (options(|o| o.ipc = 1), "ipc"),
            (options(|o| o.pid = 9), "pid"),
            (options(|o| o.pid = 3), "target_id"),
            (options(|o| o.target_id = "x".into()), "target_id"),
        ];
        for (options, field) in cases {
            let field = format!("s.namespace_options.{field}");
            assert_eq!(refused(|c| c.namespace_options = options), field);
        }
        let target = options(|o| (o.pid, o.target_id) = (3, "abc".into()));
        let parsed = namespaces("n", target.clone()).unwrap();
        assert_eq!(parsed.pid, PidMode::Target("abc".into()));
        let pod =
            v1::LinuxSandboxSecurityContext { namespace_options: target, ..Default::default() };
        assert_eq!(sandbox("s", pod).unwrap_err().field, "s.namespace_options.pid");
        let shared = namespaces("n", None).unwrap();
        assert_eq!((shared.pid, shared.network), (PidMode::Pod, NetworkMode::Pod));
    }

    #[test]
    fn a_user_namespace_maps_exactly_one_range_with_root() {
        let full = |mode, uids, gids| {
            user_namespace("u", v1::UserNamespace { mode, uids, gids }).map_err(|e| e.field)
        };
        let one = || vec![range(0, 65536, 65536)];
        assert_eq!(full(0, one(), one()).unwrap().unwrap().uids[0].host_id, 65536);
        assert_eq!(full(2, vec![], vec![]).unwrap(), None);
        assert_eq!(full(2, one(), vec![]).unwrap_err(), "u.uids");
        assert_eq!(full(0, vec![], one()).unwrap_err(), "u.uids");
        assert_eq!(full(0, one(), [one(), one()].concat()).unwrap_err(), "u.gids");
        assert_eq!(full(0, vec![range(1, 1, 1)], one()).unwrap_err(), "u.uids[0].container_id");
        assert_eq!(full(0, vec![range(0, 1, 0)], one()).unwrap_err(), "u.uids[0].length");
        assert_eq!(full(0, vec![range(0, u32::MAX, 2)], one()).unwrap_err(), "u.uids[0].length");
        assert_eq!(full(1, one(), one()).unwrap_err(), "u.mode");
        assert_eq!(full(3, one(), one()).unwrap_err(), "u.mode");
    }

    #[test]
    fn users_and_groups_are_checked() {
        let value = |value| Some(v1::Int64Value { value });
        assert_eq!(refused(|c| c.run_as_user = value(-1)), "s.run_as_user");
        assert_eq!(refused(|c| c.run_as_user = value(1 << 32)), "s.run_as_user");
        assert_eq!(refused(|c| c.run_as_group = value(0)), "s.run_as_group");
        assert_eq!(refused(|c| c.supplemental_groups = vec![1, -1]), "s.supplemental_groups[1]");
        assert_eq!(refused(|c| c.supplemental_groups_policy = 2), "s.supplemental_groups_policy");
        let both = |c: &mut v1::LinuxContainerSecurityContext| {
            (c.run_as_user, c.run_as_username) = (value(1), "www".into());
        };
        assert_eq!(refused(both), "s.run_as_username");
        let found = user("s", value(1), value(2), String::new()).unwrap();
        assert_eq!(found, User::Id { uid: 1, gid: Some(2) });
    }

    #[test]
    fn capabilities_are_normalised() {
        let capability = v1::Capability {
            add_capabilities: vec!["cap_net_admin".into(), "SYS_TIME".into()],
            drop_capabilities: vec!["all".into()],
            ..Default::default()
        };
        let parsed = capabilities_of("c", capability).unwrap();
        assert_eq!(
            (parsed.add, parsed.drop),
            (vec!["NET_ADMIN".into(), "SYS_TIME".into()], vec!["ALL".into()])
        );
        let bad =
            v1::Capability { add_ambient_capabilities: vec!["é".into()], ..Default::default() };
        assert_eq!(
            refused(|c| c.capabilities = Some(bad)),
            "s.capabilities.add_ambient_capabilities[0]"
        );
    }

    #[test]
    #[expect(deprecated, reason = "older callers still send them")]
    fn profiles_are_read_in_both_forms() {
        let new = |kind: ProfileType, name: &str| {
            Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
        };
        let local = Profile::Localhost("/p.json".into());
        for (given, old, expected) in [
            (None, "", Profile::Unset),
            (None, "runtime/default", Profile::RuntimeDefault),
            (None, "localhost//p.json", local.clone()),
            (new(ProfileType::RuntimeDefault, ""), "", Profile::RuntimeDefault),
            (new(ProfileType::Unconfined, ""), "", Profile::Unconfined),
            (new(ProfileType::Localhost, "/p.json"), "", local.clone()),
            (new(ProfileType::Localhost, "localhost//p.json"), "", local.clone()),
            (new(ProfileType::Localhost, "/p.json"), "localhost//p.json", local),
        ] {
            assert_eq!(seccomp_profile("s", given, old).unwrap(), expected);
        }
        assert_eq!(refused(|c| c.seccomp_profile_path = "x".into()), "s.seccomp_profile_path");
        assert_eq!(
            refused(|c| c.seccomp_profile_path = "localhost/relative".into()),
            "s.seccomp.localhost_ref"
        );
        assert_eq!(
            refused(|c| c.seccomp = new(ProfileType::Localhost, "relative")),
            "s.seccomp.localhost_ref"
        );
        assert_eq!(
            refused(|c| c.seccomp = new(ProfileType::Unconfined, "/p")),
            "s.seccomp.localhost_ref"
        );
        assert_eq!(
            refused(|c| c.apparmor = new(ProfileType::Localhost, "")),
            "s.apparmor.localhost_ref"
        );
        assert_eq!(refused(|c| c.apparmor_profile = "localhost/".into()), "s.apparmor_profile");
        let both = |c: &mut v1::LinuxContainerSecurityContext| {
            (c.seccomp, c.seccomp_profile_path) =
                (new(ProfileType::Unconfined, ""), "runtime/default".into());
        };
        assert_eq!(refused(both), "s.seccomp_profile_path");
        let wrong = v1::SecurityProfile { profile_type: 7, localhost_ref: String::new() };
        assert_eq!(refused(|c| c.seccomp = Some(wrong)), "s.seccomp.profile_type");
    }

    #[test]
    fn masked_paths_are_exactly_the_listed_ones() {
        let parsed = container("s", v1::LinuxContainerSecurityContext::default()).unwrap();
        assert_eq!((parsed.masked_paths, parsed.readonly_paths), (Some(vec![]), Some(vec![])));
        assert_eq!(refused(|c| c.masked_paths = vec!["proc".into()]), "s.masked_paths[0]");
        assert_eq!(refused(|c| c.readonly_paths = vec![String::new()]), "s.readonly_paths[0]");
        let label = v1::SeLinuxOption { user: "a:b".into(), ..Default::default() };
        assert_eq!(refused(|c| c.selinux_options = Some(label)), "s.selinux_options.user");
    }
}
