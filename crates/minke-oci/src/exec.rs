//! One more process in a container.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use cgroup::{Attachment, CgroupPath};
use executor::launch::{Onlookers, Progress, Spawning, Waiting, spawn_exec};
use executor::plan::ExecLaunch;
use executor::prepare::{ExecInputs, Filter, Prepared, StdioSource, prepare_exec, sealed};
use oci_spec::runtime::{Capability, Hook, LinuxNamespaceType, Process};

use crate::attend::{attend, reap};
use crate::bundle::add_home;
use crate::cli;
use crate::container::{Container, Status};
use crate::create::{Desk, drain, filter, next};
use crate::delete::open_process;
use crate::failure::Failure;
use crate::hooks::ends_by;
use crate::run::take_signals;
use crate::streams::{self, Console, Preserved};

/// The command. Gives the exit code.
pub(crate) fn exec(desk: Desk<'_>, flags: &cli::Exec, preserved: Preserved) -> Result<u8, Failure> {
    let container = Container::load(desk.store, &flags.id)?;
    let status = container.status(desk.store)?;
    let cure = match status {
        Status::Paused => "`minke-oci resume` it first, or say --ignore-paused",
        _ => "only in a created or running container can a process be started",
    };
    let wanted: &[Status] = match flags.ignore_paused {
        true => &[Status::Created, Status::Running, Status::Paused],
        false => &[Status::Created, Status::Running],
    };
    container.expect(status, wanted, cure)?;
    let init = container.init()?;
    let mut process = wanted_process(&container, flags)?;
    preserved.announce(&mut process);
    add_home(&mut process, Path::new(&format!("/proc/{}/root", init.pid)))?;

    let terminal = process.terminal().unwrap_or_default();
    let stays = !flags.detach;
    let console = streams::console(terminal, stays, flags.console_socket.as_deref())?;
    let stdio = streams::stdio(&process, &console)?;
    let attachment = place(&container, flags.cgroup.as_deref())?;
    let signals = if stays { Some(take_signals()?) } else { None };
    let mut prepared = prepare(&container, &process, stdio, attachment)?;
    for file in preserved.files {
        let handle = prepared.add(file);
        prepared.launch.alone.preserved.push(handle);
    }
    let (mut spawning, waiting) = start(&container, prepared)?;
    desk.log.debug("the process runs");
    let pid = waiting.pid.as_raw_nonzero().get();
    let mut terminal = waiting.terminal;
    if let (Console::Socket(socket), Some(other_end)) = (&console, &terminal) {
        streams::send(socket, other_end.as_fd())?;
        terminal = None;
    }
    streams::write_pid(flags.pid_file.as_ref(), pid)?;
    drain(&mut spawning)?;
    match signals {
        None => Ok(0),
        Some(signals) => attend(&waiting.pidfd, &signals, terminal),
    }
}

/// Runs a hook in a container, with the container's own user and privileges. Gives the exit code.
pub(crate) fn run_inside(container: &Container, hook: &Hook, input: &[u8]) -> Result<u8, Failure> {
    let mut process = own_process(container);
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = vec![hook.path().to_string_lossy().into_owned()];
    command.extend(args.iter().skip(1).cloned());
    process.set_args(Some(command)).set_env(Some(hook.env().clone().unwrap_or_default()));
    let input = sealed("state", input)
        .map_err(|source| Failure::Prepare { id: container.record.id.clone(), source })?;
    let StdioSource::Files([_, output, error]) = streams::stdio(&process, &Console::None)? else {
        return Ok(255);
    };
    let stdio = StdioSource::Files([input, output, error]);
    let prepared = prepare(container, &process, stdio, place(container, None)?)?;
    let (mut spawning, waiting) = start(container, prepared)?;
    drain(&mut spawning)?;
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    if let Some(seconds) = limit
        && !ends_by(&waiting.pidfd, Instant::now() + Duration::from_secs(seconds))?
    {
        // ESRCH: it has just ended.
        let _ = sys::pidfd::send_signal(&waiting.pidfd, 9);
    }
    reap(waiting.pidfd.as_fd())
}

fn prepare(
    container: &Container,
    process: &Process,
    stdio: StdioSource,
    cgroup: Attachment,
) -> Result<Prepared<ExecLaunch>, Failure> {
    let record = &container.record;
    let init = container.init()?;
    let user = user_namespace(container, init.pid)?;
    let opened = open_process(&record.id, init)?.ok_or_else(|| gone(container))?;
    let program = filter(record)?;
    let seccomp =
        program.as_ref().map(|(file, flags)| Filter { program: file.as_fd(), flags: *flags });
    let inputs = ExecInputs {
        process,
        init: opened,
        user_namespace: user.as_ref().map(AsFd::as_fd),
        cgroup: Some(cgroup),
        stdio,
        seccomp,
    };
    prepare_exec(&record.spec, inputs)
        .map_err(|source| Failure::Prepare { id: record.id.clone(), source })
}

fn gone(container: &Container) -> Failure {
    let id = container.record.id.clone();
    Failure::State { id, status: Status::Stopped, wanted: "its first process has ended" }
}

/// Starts it and waits until it executes its program.
fn start(
    container: &Container,
    prepared: Prepared<ExecLaunch>,
) -> Result<(Spawning, Waiting), Failure> {
    let failed = |source| {
        let id = container.record.id.clone();
        Failure::Launch { id, what: "the process", source }
    };
    // Who else is in there nobody has kept account of.
    let mut spawning =
        spawn_exec(&prepared.launch, prepared.descriptors, Onlookers::Possible).map_err(failed)?;
    let mut born = None;
    loop {
        match next(&mut spawning)? {
            Progress::Waiting(waiting) => born = Some(waiting),
            Progress::Failed(source) => {
                drain(&mut spawning)?;
                if let Some(waiting) = born {
                    reap(waiting.pidfd.as_fd())?;
                }
                return Err(failed(source));
            }
            Progress::Executed | Progress::Done => match born {
                Some(waiting) => return Ok((spawning, waiting)),
                None => return Err(gone(container)),
            },
            Progress::Pending | Progress::Assembled => {}
        }
    }
}

/// The user namespace that the container's first process is in, where its spec has one.
fn user_namespace(container: &Container, pid: i32) -> Result<Option<OwnedFd>, Failure> {
    let linux = container.record.spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.namespaces().as_ref());
    if !list.into_iter().flatten().any(|entry| entry.typ() == LinuxNamespaceType::User) {
        return Ok(None);
    }
    let path = format!("/proc/{pid}/ns/user");
    let namespace = File::open(&path).map_err(Failure::file("open", path))?;
    Ok(Some(namespace.into()))
}

/// The container's cgroup, or one below it.
fn place(container: &Container, below: Option<&str>) -> Result<Attachment, Failure> {
    let Container { record, cgroup } = container;
    let failed = |action| Failure::cgroup(&record.id, action);
    let Some(below) = below else { return cgroup.attachment().map_err(failed("opened")) };
    if below.contains(':') {
        return Err(Failure::Value {
            flag: "--cgroup",
            value: below.to_owned(),
            reason: "a process is in one cgroup of all controllers; give a path alone".to_owned(),
        });
    }
    let path = format!("{}/{below}", record.cgroup);
    let path = CgroupPath::new(&path).map_err(failed("named"))?;
    cgroup.hierarchy().open(&path).attachment().map_err(failed("opened"))
}

/// The container's own process.
fn own_process(container: &Container) -> Process {
    let mut process = container.record.spec.process().clone().unwrap_or_default();
    process.set_terminal(Some(false)).set_console_size(None);
    process
}

/// What the flags make of the container's own process.
fn wanted_process(container: &Container, flags: &cli::Exec) -> Result<Process, Failure> {
    if let Some(path) = &flags.process {
        let text = fs::read(path).map_err(Failure::file("read", path))?;
        let process = serde_json::from_slice(&text);
        return process.map_err(|source| Failure::Json { path: path.clone(), source });
    }
    if flags.args.is_empty() {
        return Err(Failure::Value {
            flag: "exec",
            value: flags.id.clone(),
            reason: "name the program after the container, or give --process".to_owned(),
        });
    }
    let mut process = own_process(container);
    process.set_args(Some(flags.args.clone())).set_terminal(Some(flags.tty));
    if let Some(cwd) = &flags.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(text) = &flags.user {
        set_user(&mut process, text)?;
    }
    if !flags.additional_gids.is_empty() {
        let mut user = process.user().clone();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&flags.additional_gids);
        user.set_additional_gids(Some(groups));
        process.set_user(user);
    }
    if !flags.env.is_empty() {
        let mut env = process.env().clone().unwrap_or_default();
        for entry in &flags.env {
            let name = entry.split('=').next().unwrap_or_default();
            env.retain(|known| known.split('=').next() != Some(name));
            env.push(entry.clone());
        }
        process.set_env(Some(env));
    }
    add_capabilities(&mut process, &flags.cap)?;
    if flags.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &flags.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &flags.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    Ok(process)
}

fn set_user(process: &mut Process, text: &str) -> Result<(), Failure> {
    let wrong = || Failure::Value {
        flag: "--user",
        value: text.to_owned(),
        reason: "give numbers: UID or UID:GID".to_owned(),
    };
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let mut user = process.user().clone();
    user.set_uid(uid.parse().map_err(|_| wrong())?);
    if let Some(gid) = gid {
        user.set_gid(gid.parse().map_err(|_| wrong())?);
    }
    process.set_user(user);
    Ok(())
}

/// In force, and with the most it can be: bounding, permitted, effective. Ambient where the
/// container has ambient ones, for a user who is not root.
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    let mut sets = process.capabilities().clone().unwrap_or_default();
    for name in names {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        let capability: Capability = short.parse().map_err(|_| Failure::Value {
            flag: "--cap",
            value: name.clone(),
            reason: "is no capability: CAP_NET_ADMIN is one".to_owned(),
        })?;
        let with = |set: &Option<oci_spec::runtime::Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective) = (with(sets.bounding()), with(sets.effective()));
        let permitted = with(sets.permitted());
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        if sets.ambient().as_ref().is_some_and(|set| !set.is_empty()) {
            let (inheritable, ambient) = (with(sets.inheritable()), with(sets.ambient()));
            sets.set_inheritable(inheritable).set_ambient(ambient);
        }
    }
    process.set_capabilities(Some(sets));
    Ok(())
}
