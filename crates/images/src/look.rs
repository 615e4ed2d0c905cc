//! Looks into an image without mounting it: the merged view of its layers, as overlayfs would give
//! it, for one path.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fgetxattr, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::error::Error;
use crate::tree::{self, MOST_LINKS, OPAQUE};

/// Deeper paths are of no interest to anyone who asks here, and each level holds descriptors.
const DEEPEST: usize = 32;

/// One merged directory: what each layer has of it, the topmost first.
type Merged = Vec<OwnedFd>;

enum Found {
    Nothing,
    Directory(Merged),
    Symlink(Vec<u8>),
    File(OwnedFd),
}

pub(crate) fn read_file(
    layers: &[PathBuf],
    path: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, Error> {
    let fail = |error: io::Error| Error::disk("read of an image", path)(error);
    let Some(file) = resolve(layers, path.as_bytes()).map_err(fail)? else { return Ok(None) };
    let mut content = Vec::new();
    File::from(file).take(limit.saturating_add(1)).read_to_end(&mut content).map_err(fail)?;
    if content.len() as u64 > limit {
        return Err(Error::FileTooLarge { path: path.to_owned(), limit });
    }
    Ok(Some(content))
}

fn resolve(layers: &[PathBuf], path: &[u8]) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut root = Merged::new();
    for layer in layers.iter().rev() {
        let directory = openat(CWD, layer, flags, Mode::empty())?;
        let stop = is_opaque(&directory);
        root.push(directory);
        if stop {
            break;
        }
    }
    let mut above = vec![root];
    let mut rest: VecDeque<Vec<u8>> = parts(path).collect();
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == b".." {
            // The root's parent is the root.
            if above.len() > 1 {
                above.pop();
            }
            continue;
        }
        let Some(here) = above.last() else { return Ok(None) };
        match find(here, &name)? {
            Found::Nothing => return Ok(None),
            Found::File(file) => return Ok(rest.is_empty().then_some(file)),
            Found::Directory(merged) => above.push(merged),
            Found::Symlink(target) => {
                links += 1;
                if links > MOST_LINKS {
                    return Ok(None);
                }
                if target.starts_with(b"/") {
                    above.truncate(1);
                }
                for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                    rest.push_front(part);
                }
            }
        }
        if above.len() > DEEPEST {
            return Ok(None);
        }
    }
    Ok(None)
}

fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/');
    parts.filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec)
}

/// What `name` is in a merged directory.
fn find(merged: &Merged, name: &[u8]) -> io::Result<Found> {
    let Ok(name) = CString::new(name) else { return Ok(Found::Nothing) };
    let mut directories = Merged::new();
    for directory in merged {
        let stat = match statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT | Errno::NAMETOOLONG) => continue,
            stat => stat?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let child = tree::open_child(directory, &name, flags)?;
            let opaque = is_opaque(&child);
            directories.push(child);
            if opaque {
                break;
            }
            continue;
        }
        // Anything else ends the search, a whiteout or a file below a directory by being hidden.
        if !directories.is_empty() {
            break;
        }
        return Ok(match kind {
            FileType::Symlink => {
                Found::Symlink(readlinkat(directory, &name, Vec::new())?.into_bytes())
            }
            FileType::RegularFile => {
                Found::File(tree::open_child(directory, &name, OFlags::RDONLY)?)
            }
            _ => Found::Nothing,
        });
    }
    Ok(if directories.is_empty() { Found::Nothing } else { Found::Directory(directories) })
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    matches!(fgetxattr(directory, OPAQUE, &mut value), Ok(1) if value == *b"y")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_merged_view_is_what_overlayfs_would_show() {
        let dir = tempfile::tempdir().unwrap();
        let layer = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.join("etc")).unwrap();
            path
        };
        let (low, high) = (layer("low"), layer("high"));
        let layers = [low.clone(), high.clone()];
        let read = |path: &str| {
            let found = read_file(&layers, path, 100).unwrap();
            found.map(|bytes| String::from_utf8(bytes).unwrap())
        };
        fs::write(low.join("etc/passwd"), "low").unwrap();
        assert_eq!(read("/etc/passwd").unwrap(), "low");
        fs::write(high.join("etc/passwd"), "high").unwrap();
        assert_eq!(read("etc/../etc/./passwd").unwrap(), "high");

        // Links lead through the merged root, never out of it.
        symlink("/usr/../etc/real", high.join("etc/link")).unwrap();
        fs::create_dir(low.join("usr")).unwrap();
        fs::write(low.join("etc/real"), "real").unwrap();
        assert_eq!(read("etc/link").unwrap(), "real");
        symlink("../../../../../../../etc/real", high.join("up")).unwrap();
        assert_eq!(read("up").unwrap(), "real");
        symlink("loop", high.join("loop")).unwrap();
        assert_eq!(read("loop"), None);
        symlink("/proc/self/exe", high.join("magic")).unwrap();
        assert_eq!(read("magic"), None);

        // A whiteout hides, and so does an opaque directory.
        fs::write(low.join("gone"), "x").unwrap();
        rustix::fs::mknodat(CWD, high.join("gone"), FileType::CharacterDevice, Mode::empty(), 0)
            .unwrap();
        assert_eq!(read("gone"), None);
        tree::set_opaque(File::open(high.join("etc")).unwrap()).unwrap();
        assert_eq!(read("etc/real"), None);
        assert_eq!(read("etc/passwd").unwrap(), "high");

        fs::write(high.join("long"), [b'x'; 101]).unwrap();
        assert!(matches!(read_file(&layers, "long", 100), Err(Error::FileTooLarge { .. })));
        assert_eq!(read("etc"), None);
        assert_eq!(read("etc/passwd/x"), None);
    }
}
