use std::path::PathBuf;

use oci_spec::image::Config;
use oci_spec::runtime::{Process, User};

use crate::{Error, Request, capabilities, env};

/// The process part of the spec.
pub(crate) fn process(request: &Request<'_>) -> Result<Process, Error> {
    let container = request.container;
    let security = &container.security;
    let mut user = User::default();
    user.set_uid(request.user.uid)
        .set_gid(request.user.gid)
        .set_additional_gids(Some(request.user.groups.clone()));

    let mut process = Process::default();
    process
        .set_terminal(container.tty.then_some(true))
        .set_user(user)
        .set_args(Some(args(&container.command, &container.args, request.image)?))
        .set_env(Some(env::env(request)?))
        .set_cwd(cwd(&container.working_dir, request.image)?)
        .set_capabilities(Some(capabilities::capabilities(security, &request.node.capabilities)?))
        .set_rlimits(None)
        .set_no_new_privileges(Some(security.no_new_privs))
        .set_oom_score_adj(Some(oom_score_adj(container.resources.oom_score_adj)?))
        .set_apparmor_profile(request.apparmor.map(str::to_owned))
        .set_selinux_label(
            request.process_label.filter(|_| !security.privileged).map(str::to_owned),
        );
    Ok(process)
}

/// A command replaces the image's entry point and with it the image's arguments; arguments alone
/// replace the image's arguments.
fn args(command: &[String], args: &[String], image: &Config) -> Result<Vec<String>, Error> {
    let none = Vec::new();
    let entrypoint = image.entrypoint().as_ref().unwrap_or(&none);
    let cmd = image.cmd().as_ref().unwrap_or(&none);
    let entrypoint: &[String] = match entrypoint.as_slice() {
        [single] if single.is_empty() => &[],
        words => words,
    };
    let (first, rest) = match (command, args) {
        ([], []) => (entrypoint, cmd.as_slice()),
        ([], args) => (entrypoint, args),
        (command, args) => (command, args),
    };
    let words: Vec<String> = first.iter().chain(rest).cloned().collect();
    if words.is_empty() {
        return Err(Error::NoCommand);
    }
    if let Some(word) = words.iter().find(|word| word.contains('\0')) {
        return Err(Error::invalid("command", format!("{word:?} holds a NUL byte")));
    }
    Ok(words)
}

fn cwd(asked: &str, image: &Config) -> Result<PathBuf, Error> {
    let (field, path) = match (asked, image.working_dir().as_deref()) {
        ("", None | Some("")) => return Ok(PathBuf::from("/")),
        ("", Some(path)) => ("image working directory", path),
        (path, _) => ("working_dir", path),
    };
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Error::invalid(field, format!("{path:?} is not an absolute path")));
    }
    Ok(PathBuf::from(path))
}

fn oom_score_adj(asked: i64) -> Result<i32, Error> {
    i32::try_from(asked).ok().filter(|score| (-1000..=1000).contains(score)).ok_or_else(|| {
        let reason = format!("{asked} is not within -1000 to 1000");
        Error::invalid("linux.resources.oom_score_adj", reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn image(entrypoint: &[&str], cmd: &[&str]) -> Config {
        let mut config = Config::default();
        config.set_entrypoint(Some(words(entrypoint))).set_cmd(Some(words(cmd)));
        config
    }

    #[test]
    fn command_and_arguments_take_precedence_over_the_image() {
        let full = image(&["entry", "-e"], &["cmd", "-c"]);
        for (command, given, image, expected) in [
            (&[][..], &[][..], &full, &["entry", "-e", "cmd", "-c"][..]),
            (&[], &["a"], &full, &["entry", "-e", "a"]),
            (&["x"], &[], &full, &["x"]),
            (&["x"], &["a"], &full, &["x", "a"]),
            (&[], &[], &image(&[""], &["sh"]), &["sh"]),
            (&[], &[], &image(&[], &["sh"]), &["sh"]),
        ] {
            let got = args(&words(command), &words(given), image).unwrap();
            assert_eq!(got, words(expected), "{command:?} {given:?}");
        }
        assert_eq!(args(&[], &[], &Config::default()), Err(Error::NoCommand));
        assert!(args(&words(&["a\0b"]), &[], &full).is_err());
    }

    #[test]
    fn the_working_directory_is_absolute() {
        let mut image = Config::default();
        assert_eq!(cwd("", &image), Ok(PathBuf::from("/")));
        image.set_working_dir(Some("/srv".to_owned()));
        assert_eq!(cwd("", &image), Ok(PathBuf::from("/srv")));
        assert_eq!(cwd("/own", &image), Ok(PathBuf::from("/own")));
        assert_eq!(cwd("own", &image).unwrap_err().field(), "working_dir");
    }

    #[test]
    fn the_oom_score_is_bounded() {
        assert_eq!(oom_score_adj(-998), Ok(-998));
        assert_eq!(oom_score_adj(1001).unwrap_err().field(), "linux.resources.oom_score_adj");
    }
}
