use crate::{Error, Request};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment: PATH, TERM on a terminal, HOSTNAME, the image's, the container's, HOME. A later
/// value replaces an earlier one in its place; an entry of the image without `=` takes the name out.
pub(crate) fn env(request: &Request<'_>) -> Result<Vec<String>, Error> {
    let hostname = match request.pod.hostname.as_str() {
        "" => &request.node.hostname,
        own => own,
    };
    let mut env = vec![PATH.to_owned()];
    if request.container.tty {
        env.push("TERM=xterm".to_owned());
    }
    set(&mut env, format!("HOSTNAME={hostname}"));
    for entry in request.image.env().iter().flatten() {
        if entry.contains('\0') {
            return Err(Error::invalid("image env", format!("{entry:?} holds a NUL byte")));
        }
        set(&mut env, entry.clone());
    }
    for (index, (key, value)) in request.container.envs.iter().enumerate() {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            let reason = format!("{key:?} is no name and value of an environment variable");
            return Err(Error::invalid(format!("envs[{index}]"), reason));
        }
        set(&mut env, format!("{key}={value}"));
    }
    // An OCI runtime fills HOME in where nothing else has; here it can be seen in the spec.
    if !env.iter().any(|entry| name(entry) == "HOME") {
        env.push(format!("HOME={}", request.user.home));
    }
    Ok(env)
}

fn set(env: &mut Vec<String>, entry: String) {
    let at = env.iter().position(|old| name(old) == name(&entry));
    match (at, entry.contains('=')) {
        (Some(at), true) => env[at] = entry,
        (Some(at), false) => drop(env.remove(at)),
        (None, true) => env.push(entry),
        (None, false) => {}
    }
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_value_replaces_an_earlier_one_in_its_place() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        for entry in ["A=3=4", "C=5", "B", "D"] {
            set(&mut env, entry.to_owned());
        }
        assert_eq!(env, ["A=3=4", "C=5"]);
    }
}
