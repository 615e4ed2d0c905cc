//! One OCI bundle under each runtime of bundles: how long `run` of /bin/true takes, from the start of
//! the runtime's program to its end, and what it costs.
//!
//! It is the very same directory for all of them, one after the other. They are started by a process
//! of their own, small and in a cgroup of its own, so that what is counted is theirs.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::Bench;
use crate::alike::Facts;
use crate::kernel::Census;
use crate::peer::{MASKED, MEMORY, READONLY};
use crate::results::Gathered;
use crate::results::Unit::Milliseconds;
use crate::sample::ms;

/// The container's cgroup is below it.
const PARENT: &str = "pods/bundle";
/// Where the runtimes themselves are.
const CALLER: &str = "caller";
/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// As Kubernetes and others give them unless more is asked for.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// A runtime with runc's command line.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    /// The program, and what stands before it if anything has to.
    command: Vec<PathBuf>,
}

impl Runtime {
    /// From `NAME=PROGRAM`; there may be other words before it, which then start it.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (name, command) = text.split_once('=').context("a runtime is NAME=PROGRAM")?;
        let command = command.split(' ').map(PathBuf::from).collect();
        Ok(Self { name: name.to_owned(), command })
    }

    /// What it says of itself: the last word of the first line.
    pub(crate) fn version(&self) -> Result<String> {
        let (first, rest) = self.command.split_first().context("a runtime has a program")?;
        let output = Command::new(first).args(rest).arg("--version").output();
        let output = output.with_context(|| format!("run {:?}", self.command))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let word = text.lines().next().and_then(|line| line.split(' ').next_back());
        Ok(word.with_context(|| format!("{:?} says no version", self.command))?.to_owned())
    }

    /// The command that runs a bundle.
    fn run(&self, records: &Path, bundle: &Path) -> Vec<PathBuf> {
        let mut words = self.command.clone();
        words.extend(["--root".into(), records.join(&self.name)]);
        words.extend(["run".into(), "--bundle".into(), bundle.to_owned(), "box".into()]);
        words
    }
}

/// Starts programs for whoever writes their command lines to it, a word between tabs, and answers each
/// with the nanoseconds until its end, or with how it failed.
pub(crate) fn call() -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split('\t');
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        let begin = Instant::now();
        let status = command.status().with_context(|| format!("run {line:?}"))?;
        let took = begin.elapsed();
        match status.success() {
            true => println!("{}", took.as_nanos()),
            false => println!("it ended with {status}"),
        }
    }
    Ok(())
}

/// That, from the other side.
#[derive(Debug)]
struct Caller {
    process: Child,
    answers: Receiver<std::io::Result<String>>,
}

impl Caller {
    fn new() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let command = command.arg("call").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("start the caller")?;
        let output = process.stdout.take().context("the caller has no output")?;
        let (sender, answers) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(output).lines().try_for_each(|line| sender.send(line))
        });
        Ok(Self { process, answers })
    }

    /// Runs a command to its end; an error if it fails, or does not end.
    fn time(&mut self, words: &[PathBuf]) -> Result<Duration> {
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let line = words.join("\t") + "\n";
        let input = self.process.stdin.as_mut().context("the caller has no input")?;
        input.write_all(line.as_bytes())?;
        let answer = self.answers.recv_timeout(PATIENCE);
        let answer = answer.with_context(|| format!("{words:?} did not end"))??;
        let took = answer.parse().map_err(|_| anyhow!("{words:?}: {answer}"))?;
        Ok(Duration::from_nanos(took))
    }

    fn end(mut self) -> Result<()> {
        drop(self.process.stdin.take());
        self.process.wait()?;
        Ok(())
    }
}

impl Bench {
    /// Runs the bundle with each runtime in turn.
    pub(crate) async fn bundles(&mut self) -> Result<()> {
        let Some(floor) = &self.floor else { return Ok(()) };
        let dir = self.place.dir.join("bundles");
        let cgroup = self.place.cgroups.name(PARENT) + "/box";
        self.place.cgroups.make(PARENT)?;
        let look =
            bundle(&dir.join("look"), &floor.root, &cgroup, &["sh", "-c", &Facts::script()])?;
        let bundle = bundle(&dir.join("true"), &floor.root, &cgroup, &["/bin/true"])?;
        let (records, parent) = (dir.join("records"), [PARENT.to_owned()]);
        std::fs::create_dir_all(&records)?;
        let before = Census::now()?;
        let mut facts = Vec::new();
        for runtime in &self.runtimes {
            let words = runtime.run(&records, &look);
            let output = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{}: {}: {said}", runtime.name, output.status);
            let inside = Facts::of(&String::from_utf8_lossy(&output.stdout))
                .with_context(|| format!("{}: {said}", runtime.name))?;
            facts.push((runtime.name.clone(), inside));
            before.wait_until_gone(&self.place.cgroups, &parent).await?;
        }
        Facts::check(&facts)?;
        let mut caller = Caller::new()?;
        self.place.cgroups.enter(CALLER, caller.process.id())?;
        let mut gathered = Gathered::default();
        for round in 0..self.plan.bundles {
            let mut runtimes: Vec<_> = self.runtimes.iter().collect();
            let turn = round % runtimes.len();
            runtimes.rotate_left(turn);
            for runtime in runtimes {
                let cpu = self.bundle_cpu()?;
                let took = match caller.time(&runtime.run(&records, &bundle)) {
                    // youki cannot always seal its copy of itself, and leaves nothing then.
                    Err(error) if runtime.name != self.runtimes[0].name => {
                        eprintln!("bench: {} is left out of a round: {error:#}", runtime.name);
                        continue;
                    }
                    took => took?,
                };
                before.wait_until_gone(&self.place.cgroups, &parent).await?;
                let cpu = self.bundle_cpu()? - cpu;
                let name = &runtime.name;
                gathered.add("run a bundle, /bin/true", Milliseconds, name, ms(took));
                gathered.add("CPU time per run of a bundle", Milliseconds, name, ms(cpu));
            }
        }
        caller.end()?;
        gathered.settle(&mut self.results.bundles);
        Ok(())
    }

    fn bundle_cpu(&self) -> Result<Duration> {
        Ok(self.place.cgroups.cpu(CALLER)? + self.place.cgroups.cpu(PARENT)?)
    }
}

/// Writes a bundle that runs `program` from the files below `root`.
fn bundle(dir: &Path, root: &Path, cgroup: &str, program: &[&str]) -> Result<PathBuf> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("config.json"), config(root, cgroup, program)?.to_string())?;
    Ok(dir.to_owned())
}

/// What a pod's container has, but for the network, which is an empty one of its own.
fn config(root: &Path, cgroup: &str, program: &[&str]) -> Result<Value> {
    let bounding = serde_json::from_value(json!(CAPABILITIES))?;
    let seccomp = seccomp::default_profile(&bounding, seccomp::KernelVersion::running());
    let mount = |destination: &str, kind: &str, options: &str| {
        let options: Vec<_> = options.split(',').collect();
        json!({ "destination": destination, "type": kind, "source": kind, "options": options })
    };
    let device = |major: u32, minor: Option<u32>| json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" });
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let namespaces = namespaces.map(|kind| json!({ "type": kind }));
    let mut devices = vec![json!({ "allow": false, "access": "rwm" })];
    devices.extend([3, 5, 7, 8, 9].map(|minor| device(1, Some(minor))));
    devices.extend([device(5, Some(0)), device(5, Some(2)), device(136, None)]);
    Ok(json!({
        "ociVersion": "1.0.2",
        "hostname": "box",
        "root": { "path": root },
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": program,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "oomScoreAdj": 500,
        },
        "mounts": [
            mount("/proc", "proc", "nosuid,noexec,nodev"),
            mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
            mount("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
            mount("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k"),
            mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
            mount("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
            mount("/sys/fs/cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "resources": {
                "devices": devices, "memory": { "limit": MEMORY }, "cpu": { "shares": 256 },
            },
            "maskedPaths": MASKED,
            "readonlyPaths": READONLY,
            "seccomp": seccomp,
        },
    }))
}
