//! OCI resources as values in files.
//!
//! Each version turns the resources into [`Setting`]s by pure functions (`v1`, `v2`); here they are
//! written, controller by controller. Where the kernel couples two files (limit and limit with swap,
//! quota and burst), the order that it accepts depends on the values in force: what is refused as
//! invalid is written again after its neighbours, as long as that brings progress.

mod v1;
mod v2;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

use crate::{Cgroup, Controller, Error, Version, devices, file};

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    controller: Controller,
    file: Cow<'static, str>,
    value: String,
    /// Whether a node that lacks the file does what is asked all the same.
    dispensable: bool,
}

impl Setting {
    fn new(
        controller: Controller,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
    ) -> Self {
        Self { controller, file: file.into(), value: value.to_string(), dispensable: false }
    }

    fn dispensable_if(mut self, condition: bool) -> Self {
        self.dispensable = condition;
        self
    }
}

/// A setting and where it goes.
struct Write {
    setting: Setting,
    path: PathBuf,
    /// What the file said before, to be put back.
    before: Option<String>,
}

impl Cgroup {
    /// Sets the limits of a new cgroup, the device rules included. Absent and zero values leave the
    /// kernel's default; negative ones lift a limit. Absent device rules leave all devices open; rules
    /// that are there start from none. `unified` comes last and so outweighs the typed fields.
    ///
    /// # Errors
    /// [`Error::Write`] with the kernel's reason; [`Error::NoController`] for a limit that nothing
    /// enforces (a huge page limit of zero excepted); [`Error::InvalidValue`] and
    /// [`Error::Unsupported`] for a request that makes no sense here. What was set before the error
    /// stays set: remove the cgroup.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        if let Some(rules) = resources.devices() {
            self.set_devices(&devices::Rule::parse_all(rules)?)?;
        }
        let mut writes = self.plan(resources)?;
        settle_all(&mut writes)
    }

    /// Changes limits under running processes; absent and zero values stay as they are. Either all
    /// take effect, or those that did are put back.
    ///
    /// # Errors
    /// As [`Cgroup::apply`], and [`Error::BelowUsage`] for a memory limit that only killing could
    /// bring about.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        let rules = resources.devices().as_deref().map(devices::Rule::parse_all).transpose()?;
        self.check_memory(resources)?;
        let mut writes = self.plan(resources)?;
        for write in &mut writes {
            write.before = file::read_if_there(&write.path)?;
        }
        settle_all(&mut writes).inspect_err(|_| {
            let mut undo: Vec<_> = writes.iter().rev().filter_map(Write::undo).collect();
            // The refusal is the error to tell.
            let _ = settle_all(&mut undo);
        })?;
        rules.map_or(Ok(()), |rules| self.set_devices(&rules))
    }

    fn plan(&self, resources: &LinuxResources) -> Result<Vec<Write>, Error> {
        let features = self.hierarchy().features();
        let settings = match features.version {
            Version::V1 => v1::settings(resources)?,
            Version::V2 => v2::settings(resources, &features.controllers, &|controller, name| {
                let directory = self.directory(controller)?;
                file::read(&directory.join(name)).ok()
            })?,
        };
        let mut writes = Vec::with_capacity(settings.len());
        for setting in settings {
            match self.directory(setting.controller) {
                Some(directory) => {
                    let path = directory.join(&*setting.file);
                    writes.push(Write { setting, path, before: None });
                }
                None if setting.dispensable => {}
                None => return Err(no_controller(&setting, self.path().relative())),
            }
        }
        Ok(writes)
    }

    fn set_devices(&self, rules: &[devices::Rule]) -> Result<(), Error> {
        match self.hierarchy().features().version {
            Version::V2 => self.hierarchy().device_program().attach(&self.census()?, rules),
            Version::V1 => {
                let directory =
                    self.directory(Controller::Devices).ok_or_else(|| Error::NoController {
                        controller: Controller::Devices,
                        file: "devices.deny".to_owned(),
                        path: self.path().relative().to_owned(),
                    })?;
                devices::writes(rules)?
                    .iter()
                    .try_for_each(|(name, value)| file::write(&directory.join(name), value))
            }
        }
    }

    /// v2 kills to get below a new limit; v1 would refuse with a bare EBUSY. File pages that are
    /// neither in active use nor dirty can be dropped at once and do not count.
    fn check_memory(&self, resources: &LinuxResources) -> Result<(), Error> {
        let limit = resources.memory().as_ref().and_then(|memory| memory.limit());
        let Some(limit) =
            limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
        else {
            return Ok(());
        };
        let Some(directory) = self.directory(Controller::Memory) else { return Ok(()) };
        let (usage, prefix, dirty) = match self.hierarchy().features().version {
            Version::V1 => ("memory.usage_in_bytes", "total_", ["total_dirty", "total_writeback"]),
            Version::V2 => ("memory.current", "", ["file_dirty", "file_writeback"]),
        };
        let Some(usage) = file::read_if_there(&directory.join(usage))? else { return Ok(()) };
        let usage: u64 = usage.trim().parse().unwrap_or(0);
        if usage <= limit {
            return Ok(());
        }
        let stat = file::read(&directory.join("memory.stat"))?;
        let count = |key: &str| file::keyed(&stat, key).unwrap_or(0);
        let busy = count(dirty[0]) + count(dirty[1]);
        let dropped = count(&format!("{prefix}inactive_file")).saturating_sub(busy);
        match usage.saturating_sub(dropped) {
            needed if needed > limit => {
                Err(Error::BelowUsage { path: directory, limit, usage: needed })
            }
            _ => Ok(()),
        }
    }
}

impl Write {
    fn undo(&self) -> Option<Self> {
        let value = self.before.as_deref()?.trim_end();
        // A file of several lines takes them one at a time and not always as it shows them.
        (!value.contains('\n')).then(|| Self {
            setting: Setting { value: value.to_owned(), ..self.setting.clone() },
            path: self.path.clone(),
            before: None,
        })
    }
}

fn no_controller(setting: &Setting, path: &Path) -> Error {
    Error::NoController {
        controller: setting.controller,
        file: setting.file.clone().into_owned(),
        path: path.to_owned(),
    }
}

/// Writes all, those of one controller together.
fn settle_all(writes: &mut [Write]) -> Result<(), Error> {
    writes
        .chunk_by(|a, b| a.setting.controller == b.setting.controller)
        .try_for_each(|chunk| settle(&chunk.iter().collect::<Vec<_>>()))
}

fn settle(writes: &[&Write]) -> Result<(), Error> {
    let mut refused = Vec::new();
    let mut first = None;
    for write in writes {
        match file::write(&write.path, &write.setting.value) {
            Ok(()) => {}
            Err(error) => match error.errno() {
                Some(Errno::INVAL) => {
                    refused.push(*write);
                    first.get_or_insert(error);
                }
                Some(Errno::NOENT) if write.setting.dispensable => {}
                Some(Errno::NOENT) if write.path.parent().is_some_and(Path::exists) => {
                    let directory = write.path.parent().unwrap_or(&write.path);
                    return Err(no_controller(&write.setting, directory));
                }
                _ => return Err(error),
            },
        }
    }
    match first {
        None => Ok(()),
        Some(_) if refused.len() < writes.len() => settle(&refused),
        Some(error) => Err(error),
    }
}
