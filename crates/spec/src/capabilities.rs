use std::str::FromStr;

use model::SecurityContext;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::Error;

const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// The five sets. `ALL` is applied before single names and adding before dropping, so that
/// "add ALL, drop CHOWN" and "drop ALL, add CHOWN" both mean what they say. The inheritable set is
/// empty but for ambient capabilities, which the kernel keeps only where they are inheritable too.
/// Names that this process cannot hand on are left out, as they could only fail.
pub(crate) fn capabilities(
    security: &SecurityContext,
    available: &Capabilities,
) -> Result<LinuxCapabilities, Error> {
    let changes = &security.capabilities;
    let add = names("add_capabilities", &changes.add)?;
    let drop = names("drop_capabilities", &changes.drop)?;
    let ambient = names("add_ambient_capabilities", &changes.add_ambient)?;

    let mut held: Capabilities = if security.privileged {
        available.clone()
    } else {
        let mut held: Capabilities = match (drop.all, add.all || ambient.all) {
            (true, _) => Capabilities::new(),
            (false, true) => available.clone(),
            (false, false) => DEFAULT.into_iter().collect(),
        };
        held.extend(add.single.iter().chain(&ambient.single));
        held.retain(|capability| !drop.single.contains(capability));
        held
    };
    held.retain(|capability| available.contains(capability));

    let mut kept = ambient.single;
    if ambient.all {
        kept.extend(&held);
    }
    kept.retain(|capability| held.contains(capability));

    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(held.clone()))
        .set_effective(Some(held.clone()))
        .set_permitted(Some(held))
        .set_inheritable((!kept.is_empty()).then(|| kept.clone()))
        .set_ambient((!kept.is_empty()).then_some(kept));
    Ok(sets)
}

struct Names {
    all: bool,
    single: Capabilities,
}

fn names(field: &str, names: &[String]) -> Result<Names, Error> {
    let mut parsed = Names { all: false, single: Capabilities::new() };
    for (index, name) in names.iter().enumerate() {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" {
            parsed.all = true;
            continue;
        }
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let capability = Capability::from_str(bare).map_err(|_| {
            let field = format!("linux.security_context.capabilities.{field}[{index}]");
            Error::invalid(field, format!("{name:?} is not a capability"))
        })?;
        parsed.single.insert(capability);
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Capabilities {
        DEFAULT.into_iter().chain([Capability::SysAdmin, Capability::NetAdmin]).collect()
    }

    fn held(add: &[&str], drop: &[&str], ambient: &[&str]) -> (Capabilities, Capabilities) {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut security = SecurityContext::default();
        security.capabilities.add = own(add);
        security.capabilities.drop = own(drop);
        security.capabilities.add_ambient = own(ambient);
        let sets = capabilities(&security, &all()).unwrap();
        assert_eq!(sets.bounding(), sets.effective());
        assert_eq!(sets.bounding(), sets.permitted());
        assert_eq!(sets.inheritable(), sets.ambient());
        let ambient = sets.ambient().clone().unwrap_or_default();
        (sets.bounding().clone().unwrap(), ambient)
    }

    #[test]
    fn all_comes_before_single_names() {
        assert_eq!(held(&[], &[], &[]).0, DEFAULT.into_iter().collect());
        assert_eq!(held(&["ALL"], &[], &[]).0, all());
        assert_eq!(held(&["CHOWN"], &["ALL"], &[]).0, [Capability::Chown].into());
        let mut but = all();
        but.remove(&Capability::Chown);
        assert_eq!(held(&["all"], &["cap_chown"], &[]).0, but);
        assert_eq!(held(&["ALL"], &["ALL"], &[]).0, Capabilities::new());
    }

    #[test]
    fn ambient_capabilities_are_held_and_inheritable() {
        let (held, ambient) = held(&[], &["ALL"], &["NET_ADMIN"]);
        assert_eq!(held, [Capability::NetAdmin].into());
        assert_eq!(ambient, held);
    }

    #[test]
    fn what_this_process_lacks_is_left_out() {
        assert!(!held(&["SYS_TIME"], &[], &[]).0.contains(&Capability::SysTime));
    }

    #[test]
    fn an_unknown_name_is_refused_with_its_field() {
        let mut security = SecurityContext::default();
        security.capabilities.drop = vec!["CHOWN".into(), "CHWON".into()];
        let error = capabilities(&security, &all()).unwrap_err();
        assert_eq!(error.field(), "linux.security_context.capabilities.drop_capabilities[1]");
    }
}
