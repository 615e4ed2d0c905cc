use std::collections::BTreeSet;

use model::{Groups, SupplementalGroupsPolicy, User};

use crate::Error;

/// The largest id: OCI runtimes agree on a signed 32-bit number.
const MAX_ID: u32 = i32::MAX as u32;

/// Who a process runs as, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups, the primary one included, ascending.
    pub groups: Vec<u32>,
    /// The home directory; `/` where the image does not say.
    pub home: String,
}

/// Finds the numbers behind a user: what the caller asked for, else the image's user (`name`, `uid`,
/// `name:group`, `uid:gid` …), else root. `passwd` and `group` are the contents of the image's
/// /etc/passwd and /etc/group, empty where it has none; lines that make no sense are skipped.
///
/// A number needs no entry, and its group is then 0. Where the policy is to merge, the groups that
/// list the user are added.
///
/// # Errors
/// A name that is not there, and an id above 2147483647.
pub fn resolve_user(
    asked: &User,
    groups: &Groups,
    image_user: &str,
    passwd: &[u8],
    group: &[u8],
) -> Result<ResolvedUser, Error> {
    let accounts = Accounts { passwd, group };
    let mut who = match asked {
        User::Id { uid, gid } => {
            let uid = checked("linux.security_context.run_as_user", *uid)?;
            accounts.by_id(uid, *gid)
        }
        User::Name { name, gid } => {
            accounts.by_text("linux.security_context.run_as_username", name, *gid)?
        }
        User::Image => accounts.image(image_user)?,
    };
    checked("linux.security_context.run_as_group", who.gid)?;

    let mut all: BTreeSet<u32> = groups.ids.iter().copied().collect();
    all.insert(who.gid);
    if let (SupplementalGroupsPolicy::Merge, Some(name)) = (groups.policy, who.name.take()) {
        all.extend(accounts.groups_of(&name));
    }
    Ok(ResolvedUser {
        uid: who.uid,
        gid: who.gid,
        groups: all.into_iter().collect(),
        home: who.home,
    })
}

struct Who {
    uid: u32,
    gid: u32,
    name: Option<String>,
    home: String,
}

struct Passwd {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Accounts<'a> {
    passwd: &'a [u8],
    group: &'a [u8],
}

impl Accounts<'_> {
    fn image(&self, text: &str) -> Result<Who, Error> {
        const FIELD: &str = "image user";
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let gid = match group.map(|group| (group, number(FIELD, group))) {
            None => None,
            Some((_, Some(gid))) => Some(gid?),
            Some((name, None)) => {
                let known = self.groups().find(|(group, _, _)| group == name);
                let unknown = || Error::UnknownAccount {
                    field: FIELD,
                    file: "/etc/group",
                    name: name.to_owned(),
                };
                Some(known.ok_or_else(unknown)?.1)
            }
        };
        match user {
            // No user is root, whatever gid root has in the image.
            "" => Ok(self.by_id(0, Some(gid.unwrap_or(0)))),
            user => self.by_text(FIELD, user, gid),
        }
    }

    /// A text that is a number is an id even where an account has that name.
    fn by_text(&self, field: &'static str, text: &str, gid: Option<u32>) -> Result<Who, Error> {
        if let Some(uid) = number(field, text) {
            return Ok(self.by_id(uid?, gid));
        }
        let unknown =
            || Error::UnknownAccount { field, file: "/etc/passwd", name: text.to_owned() };
        let entry = self.users().find(|entry| entry.name == text).ok_or_else(unknown)?;
        Ok(Who::from_entry(entry, gid))
    }

    fn by_id(&self, uid: u32, gid: Option<u32>) -> Who {
        match self.users().find(|entry| entry.uid == uid) {
            Some(entry) => Who::from_entry(entry, gid),
            None => Who { uid, gid: gid.unwrap_or(0), name: None, home: "/".to_owned() },
        }
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        // A group named as the user is the user's private one: primary where it applies at all.
        let member = |(name, gid, members): (String, u32, Vec<String>)| {
            (name != user && members.iter().any(|member| member == user)).then_some(gid)
        };
        self.groups().filter_map(member).collect()
    }

    fn users(&self) -> impl Iterator<Item = Passwd> {
        lines(self.passwd).filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = id(fields.nth(1)?)?;
            let gid = id(fields.next()?)?;
            let home = fields.nth(1).unwrap_or_default();
            let home = if home.is_empty() { "/" } else { home }.to_owned();
            Some(Passwd { name, uid, gid, home })
        })
    }

    fn groups(&self) -> impl Iterator<Item = (String, u32, Vec<String>)> {
        lines(self.group).filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let gid = id(fields.nth(1)?)?;
            let members = fields.next().unwrap_or_default().split(',');
            Some((name, gid, members.map(|member| member.trim().to_owned()).collect()))
        })
    }
}

impl Who {
    fn from_entry(entry: Passwd, gid: Option<u32>) -> Self {
        let gid = gid.unwrap_or(entry.gid);
        Self { uid: entry.uid, gid, name: Some(entry.name), home: entry.home }
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = String> {
    let lines = file.split(|byte| *byte == b'\n').filter(|line| !line.contains(&0));
    lines.map(|line| String::from_utf8_lossy(line).trim().to_owned())
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

/// None where the text is no number, an error where it is one that no id can be.
fn number(field: &'static str, text: &str) -> Option<Result<u32, Error>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(id(text).ok_or_else(|| out_of_range(field, text)))
}

fn checked(field: &'static str, id: u32) -> Result<u32, Error> {
    if id <= MAX_ID { Ok(id) } else { Err(out_of_range(field, &id.to_string())) }
}

fn out_of_range(field: &str, id: &str) -> Error {
    Error::invalid(field, format!("{id} is not within 0 to {MAX_ID}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken\nevil:x:zero:0::/:\n\
        www-data:x:33:33:www:/var/www:/bin/sh\nann:x:1000:50::/home/ann:\n7:x:700:700:::\n";
    const GROUP: &[u8] =
        b"root:x:0:\nann:x:51:ann\nusers:x:100:ann,www-data\nwheel:x:10:root,ann\n\
        bad:x::ann\n";

    fn resolve(asked: User, image: &str) -> Result<ResolvedUser, Error> {
        resolve_user(&asked, &Groups::default(), image, PASSWD, GROUP)
    }

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> ResolvedUser {
        ResolvedUser { uid, gid, groups: groups.to_vec(), home: home.to_owned() }
    }

    #[test]
    fn the_image_user_is_read_in_every_form() {
        for (image, expected) in [
            ("", user(0, 0, &[0, 10], "/root")),
            ("www-data", user(33, 33, &[33, 100], "/var/www")),
            ("1000", user(1000, 50, &[10, 50, 100], "/home/ann")),
            ("ann:users", user(1000, 100, &[10, 100], "/home/ann")),
            ("4242", user(4242, 0, &[0], "/")),
            ("4242:wheel", user(4242, 10, &[10], "/")),
            ("4242:4343", user(4242, 4343, &[4343], "/")),
            ("7", user(7, 0, &[0], "/")),
        ] {
            assert_eq!(resolve(User::Image, image), Ok(expected), "{image}");
        }
        for bad in ["nobody", "ann:none", "evil", "broken", "4294967296", "-1", "1:2:3", "ann:-5"] {
            assert_eq!(resolve(User::Image, bad).unwrap_err().field(), "image user", "{bad}");
        }
    }

    #[test]
    fn the_caller_comes_before_the_image() {
        let id = |uid, gid| resolve(User::Id { uid, gid }, "www-data");
        assert_eq!(id(1000, None), Ok(user(1000, 50, &[10, 50, 100], "/home/ann")));
        assert_eq!(id(1000, Some(9)), Ok(user(1000, 9, &[9, 10, 100], "/home/ann")));
        let name = |name: &str| resolve(User::Name { name: name.to_owned(), gid: None }, "0");
        assert_eq!(name("ann"), id(1000, None));
        assert_eq!(name("33"), resolve(User::Image, "www-data"));
        assert_eq!(name("nope").unwrap_err().field(), "linux.security_context.run_as_username");
        assert_eq!(id(u32::MAX, None).unwrap_err().field(), "linux.security_context.run_as_user");
        let error = id(1, Some(u32::MAX)).unwrap_err();
        assert_eq!(error.field(), "linux.security_context.run_as_group");
    }

    #[test]
    fn a_strict_policy_leaves_the_image_groups_out() {
        let asked = User::Id { uid: 1000, gid: None };
        let groups = Groups { ids: vec![1234, 7], policy: SupplementalGroupsPolicy::Strict };
        let strict = resolve_user(&asked, &groups, "", PASSWD, GROUP).unwrap();
        assert_eq!(strict.groups, [7, 50, 1234]);
        let groups = Groups { policy: SupplementalGroupsPolicy::Merge, ..groups };
        let merged = resolve_user(&asked, &groups, "", PASSWD, GROUP).unwrap();
        assert_eq!(merged.groups, [7, 10, 50, 100, 1234]);
    }

    #[test]
    fn hostile_account_files_are_survived() {
        let noise: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let root = resolve_user(&User::Image, &Groups::default(), "", &noise, &noise).unwrap();
        assert_eq!(root, user(0, 0, &[0], "/"));
    }
}
