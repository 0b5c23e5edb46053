//! The users and groups of an image: those of its base, and those that the stack creates (passwd(5), group(5), shadow(5)).

use kiln_plan::base::BaseFacts;
use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Span};
use kiln_plan::stack::{Copy, NewUser, Owner};

use crate::error::{BuildError, Result};

/// The first id of a person (login.defs(5), `UID_MIN`), and the last.
const PEOPLE: std::ops::Range<u32> = 1000..60_000;

/// The day of a password's last change, in days since 1970: 1980-01-01, as in a normalised Debian.
const DAY: &str = "3652";

/// Users and groups, as lines of the files that hold them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    pub(crate) passwd: Vec<String>,
    pub(crate) group: Vec<String>,
    pub(crate) shadow: Vec<String>,
    /// Names of users that the stack made; true for one who is in further groups.
    made: Vec<(String, bool)>,
    /// The copy that brought another `/etc/passwd` or `/etc/group`, whose lines are not known.
    replaced_by: Option<String>,
}

/// What an image does to a file of users.
pub(crate) enum Noted<'t> {
    /// It has this text.
    Whole(&'t str),
    /// It is made longer.
    Added(&'t str),
    /// This copy brings it.
    Copied(&'t str),
}

/// A user of the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// False for one that the base has just so.
    pub(crate) is_new: bool,
}

impl Accounts {
    /// Returns the accounts of a base.
    pub(crate) fn of(facts: &BaseFacts) -> Self {
        let (passwd, group, shadow) = (facts.passwd.clone(), facts.group.clone(), facts.shadow.clone());
        Self { passwd, group, shadow, made: Vec::new(), replaced_by: None }
    }

    /// Returns these accounts with the users that the stack made in others.
    pub(crate) fn made_as_in(self, others: &Self) -> Self {
        Self { made: others.made.clone(), ..self }
    }

    /// Returns the ids of a user and of the user's own group.
    pub(crate) fn user(&self, name: &str) -> Option<(u32, u32)> {
        let line = self.passwd.iter().find(|line| field(line, 0) == name)?;
        Some((field(line, 2).parse().ok()?, field(line, 3).parse().ok()?))
    }

    /// Returns the groups that a user is a member of, beside the user's own, and the home directory.
    pub(crate) fn further(&self, text: &str) -> (Vec<u32>, String) {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let line = self.passwd.iter().find(|line| field(line, 0) == user || field(line, 2) == user);
        let home = line.map_or(if user == "0" || user == "root" { "/root" } else { "/" }, |line| field(line, 5));
        let name = line.map_or(user, |line| field(line, 0));
        let is_member = |line: &&String| group.is_none() && field(line, 3).split(',').any(|member| member == name);
        let groups = self.group.iter().filter(is_member).filter_map(|line| field(line, 2).parse().ok()).collect();
        (groups, home.to_owned())
    }

    fn group_id(&self, name: &str) -> Option<u32> {
        field(self.group.iter().find(|line| field(line, 0) == name)?, 2).parse().ok()
    }

    /// Returns what a container runs as, for `User` of a configuration: ids where the stack made the user, so that Kubernetes
    /// can see that it is not root. Runtimes give further groups to a user alone, and not beside a group.
    pub(crate) fn runs_as(&self, text: &str) -> String {
        let name = text.split(':').next().unwrap_or(text);
        let made = self.made.iter().find(|(made, _)| made == name);
        match made.and_then(|made| Some((made.1, self.ids(text)?))) {
            Some((true, (uid, _))) if name == text => uid.to_string(),
            Some((_, (uid, gid))) => format!("{uid}:{gid}"),
            None => text.to_owned(),
        }
    }

    /// Returns the ids behind `User` of a configuration, where they are known.
    pub(crate) fn ids(&self, text: &str) -> Option<(u32, u32)> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let known = self.user(user).or_else(|| {
            let uid: u32 = user.parse().ok()?;
            let line = self.passwd.iter().find(|line| field(line, 2) == user);
            Some((uid, line.and_then(|line| field(line, 3).parse().ok()).unwrap_or(0)))
        })?;
        match group {
            Some(group) => Some((known.0, self.group_id(group).or_else(|| group.parse().ok())?)),
            None => Some(known),
        }
    }

    /// Returns true if the stack made a user.
    pub(crate) fn has_made_users(&self) -> bool {
        !self.made.is_empty()
    }

    /// Refuses a name that no user or group has. Where the base tells of none, nothing can be said.
    pub(crate) fn require(&self, text: &str, span: Span) -> Result<()> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let is_number = |text: &str| text.parse::<u32>().is_ok();
        let is_known = !self.passwd.is_empty() && self.replaced_by.is_none();
        if is_known && !is_number(user) && self.user(user).is_none() {
            return Err(unknown("user", user, &self.passwd, span));
        }
        match group {
            Some(group) if !self.group.is_empty() && !is_number(group) => self.require_group(group, span).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Adds a user, who gets the first free id where the stack names none.
    pub(crate) fn create(&mut self, user: &NewUser) -> Result<Account> {
        if self.passwd.is_empty() {
            self.passwd.push("root:x:0:0:root:/root:/bin/sh".into());
        }
        if self.group.is_empty() {
            self.group.push("root:x:0:".into());
        }
        if let Some(copy) = &self.replaced_by {
            let message = format!("`{copy}` brings another list of users: `{}` cannot be added to it", user.name);
            let hint = "create users in the image that has the copy, or leave the file out of the copy";
            return Err(Diagnostics::from(Diagnostic::at(user.span.clone(), message).hint(hint)).into());
        }
        let gid =
            user.group.as_deref().map(|name| self.require_group(name, user.span.clone())).transpose()?.or(user.gid);
        if let Some((uid, own)) = self.user(&user.name).filter(|_| !user.replace) {
            let same = user.uid.is_none_or(|wanted| wanted == uid) && gid.is_none_or(|wanted| wanted == own);
            if !same {
                return Err(name_taken(user, uid, own));
            }
            self.join_groups(user)?;
            return Ok(Account { uid, gid: own, is_new: false });
        }
        let uid = user.uid.unwrap_or_else(|| self.free_id());
        while let Some(holder) = self.holder(uid, &user.name) {
            if !user.replace {
                return Err(id_taken(user, uid, &holder));
            }
            self.remove(&holder);
        }
        self.remove(&user.name);
        let gid = self.own_group(user, gid, uid)?;
        self.passwd.push(format!("{0}:x:{uid}:{gid}:{0}:{1}:{2}", user.name, user.home, user.shell));
        if !self.shadow.is_empty() {
            self.shadow.push(format!("{}:!:{DAY}:0:99999:7:::", user.name));
        }
        self.made.push((user.name.clone(), !user.groups.is_empty()));
        self.join_groups(user)?;
        Ok(Account { uid, gid, is_new: true })
    }

    /// Returns the user's own group: the one that is asked for, or one of the user's name and id, which is made.
    fn own_group(&mut self, user: &NewUser, asked: Option<u32>, uid: u32) -> Result<u32> {
        let (gid, name) = (asked.unwrap_or(uid), &user.name);
        let number = gid.to_string();
        let of_id = self.group.iter().find(|line| field(line, 2) == number).map(|line| field(line, 0).to_owned());
        if let Some(holder) = of_id {
            return match asked.is_some() || holder == *name {
                true => Ok(gid),
                false => Err(group_taken(user, &holder, gid)),
            };
        }
        match self.group_id(name) {
            Some(other) if user.replace => self.group.retain(|line| field(line, 2) != other.to_string()),
            Some(other) => return Err(group_taken(user, name, other)),
            None => {}
        }
        self.group.push(format!("{name}:x:{gid}:"));
        Ok(gid)
    }

    /// Notes files of an image that tell of users: later ones are not created among those of the base alone.
    pub(crate) fn note_file(&mut self, path: &str, content: Noted<'_>) {
        let lines = match path {
            "etc/passwd" => &mut self.passwd,
            "etc/group" => &mut self.group,
            "etc/shadow" => &mut self.shadow,
            _ => return,
        };
        match content {
            Noted::Whole(text) => *lines = text.lines().map(str::to_owned).collect(),
            Noted::Added(text) => lines.extend(text.lines().map(str::to_owned)),
            Noted::Copied(copy) => self.replaced_by = Some(copy.to_owned()),
        }
    }

    fn join_groups(&mut self, user: &NewUser) -> Result<()> {
        for name in &user.groups {
            self.require_group(name, user.span.clone())?;
            for line in self.group.iter_mut().filter(|line| field(line, 0) == name) {
                let members = field(line, 3);
                if !members.split(',').any(|member| member == user.name) {
                    let separator = if members.is_empty() || members.ends_with(',') { "" } else { "," };
                    *line = format!("{line}{separator}{}", user.name);
                }
            }
        }
        Ok(())
    }

    fn require_group(&self, name: &str, span: Span) -> Result<u32> {
        self.group_id(name).ok_or_else(|| unknown("group", name, &self.group, span))
    }

    fn free_id(&self) -> u32 {
        let taken = |id: &u32| {
            let id = id.to_string();
            self.passwd.iter().chain(&self.group).any(|line| field(line, 2) == id)
        };
        PEOPLE.into_iter().find(|id| !taken(id)).unwrap_or(PEOPLE.start)
    }

    /// Returns the name of another user who has an id.
    fn holder(&self, uid: u32, name: &str) -> Option<String> {
        let uid = uid.to_string();
        let line = self.passwd.iter().find(|line| field(line, 2) == uid && field(line, 0) != name)?;
        Some(field(line, 0).to_owned())
    }

    fn remove(&mut self, name: &str) {
        let own = self.user(name).map(|(_, gid)| gid.to_string());
        for lines in [&mut self.passwd, &mut self.shadow] {
            lines.retain(|line| field(line, 0) != name);
        }
        self.group.retain(|line| field(line, 0) != name || Some(field(line, 2)) != own.as_deref());
        for line in &mut self.group {
            let (start, members) = line.rsplit_once(':').unwrap_or((line.as_str(), ""));
            if members.split(',').any(|member| member == name) {
                let others: Vec<&str> = members.split(',').filter(|member| *member != name).collect();
                *line = format!("{start}:{}", others.join(","));
            }
        }
    }

    /// Returns the user and the group that copied files belong to, by id.
    pub(crate) fn owner(&self, owner: &Owner, span: Span) -> Result<(u32, u32)> {
        let (uid, primary) = match owner.user.as_deref() {
            None | Some("") => (0, 0),
            Some(user) => match user.parse::<u32>() {
                // As with `COPY --chown` of a Dockerfile.
                Ok(uid) => (uid, uid),
                Err(_) => self.user(user).ok_or_else(|| unknown("user", user, &self.passwd, span.clone()))?,
            },
        };
        let gid = match owner.group.as_deref() {
            None => primary,
            Some(group) => match group.parse::<u32>() {
                Ok(gid) => gid,
                Err(_) => self.require_group(group, span)?,
            },
        };
        Ok((uid, gid))
    }

    /// Returns the owner of a copy.
    pub(crate) fn owner_of(&self, copy: &Copy) -> Result<(u32, u32)> {
        self.owner(&copy.owner, copy.owner_span.clone().unwrap_or_else(|| copy.span()))
    }
}

/// Returns a field of a line, or nothing.
fn field(line: &str, at: usize) -> &str {
    line.split(':').nth(at).unwrap_or("")
}

fn unknown(what: &str, name: &str, lines: &[String], span: Span) -> BuildError {
    let known: Vec<&str> = lines.iter().map(|line| field(line, 0)).collect();
    let hint = if known.is_empty() { "use a number".to_owned() } else { format!("known are {}", known.join(", ")) };
    Diagnostics::from(Diagnostic::at(span, format!("there is no {what} `{name}` in the base")).hint(hint)).into()
}

fn name_taken(user: &NewUser, uid: u32, gid: u32) -> BuildError {
    let name = &user.name;
    let message = format!("the base has a user `{name}` already, with the ids {uid}:{gid}");
    let hint =
        format!("take those ids, run as them with `user = \"{name}\"`, take another name, or say `replace = true`");
    Diagnostics::from(Diagnostic::at(user.span.clone(), message).hint(hint)).into()
}

fn group_taken(user: &NewUser, holder: &str, gid: u32) -> BuildError {
    let message =
        format!("there is a group `{holder}` with the id {gid}: the group of `{}` needs both for itself", user.name);
    let hint = format!("join it with `group = \"{holder}\"`, or take another id or name");
    Diagnostics::from(Diagnostic::at(user.span.clone(), message).hint(hint)).into()
}

fn id_taken(user: &NewUser, uid: u32, holder: &str) -> BuildError {
    let message = format!("the user id {uid} is that of `{holder}`: `{}` would be the same user", user.name);
    let hint =
        format!("take another id or leave `uid` out, run as them with `user = \"{holder}\"`, or say `replace = true`");
    Diagnostics::from(Diagnostic::at(user.span.clone(), message).hint(hint)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ubuntu() -> Accounts {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        Accounts::of(&BaseFacts {
            passwd: lines(&["root:x:0:0:root:/root:/bin/bash", "ubuntu:x:1000:1000:Ubuntu:/home/ubuntu:/bin/bash"]),
            group: lines(&["root:x:0:", "sudo:x:27:ubuntu", "video:x:44:", "ubuntu:x:1000:"]),
            shadow: lines(&["root:*:3652:0:99999:7:::", "ubuntu:!:3652:0:99999:7:::"]),
            ..BaseFacts::default()
        })
    }

    fn alice() -> NewUser {
        NewUser {
            name: "alice".into(),
            span: 0..1,
            uid: None,
            gid: None,
            group: None,
            groups: Vec::new(),
            home: "/home/alice".into(),
            shell: "/bin/sh".into(),
            replace: false,
        }
    }

    #[test]
    fn a_user_without_an_id_gets_the_first_that_is_free() {
        let mut accounts = ubuntu();
        assert_eq!(accounts.create(&alice()).unwrap(), Account { uid: 1001, gid: 1001, is_new: true });
        assert_eq!(accounts.passwd.last().unwrap(), "alice:x:1001:1001:alice:/home/alice:/bin/sh");
        assert_eq!(accounts.group.last().unwrap(), "alice:x:1001:");
        assert_eq!(accounts.shadow.last().unwrap(), "alice:!:3652:0:99999:7:::");
        assert_eq!((accounts.runs_as("alice"), accounts.runs_as("ubuntu")), ("1001:1001".into(), "ubuntu".into()));
        let mut scratch = Accounts::default();
        assert_eq!(scratch.create(&alice()).unwrap().uid, 1000);
        assert!(scratch.shadow.is_empty(), "a base without passwords gets none");
    }

    #[test]
    fn an_id_or_a_name_of_somebody_else_is_refused_unless_it_is_to_be_replaced() {
        let wanted = NewUser { uid: Some(1000), ..alice() };
        let error = format!("{:?}", ubuntu().create(&wanted).unwrap_err());
        assert!(error.contains("the user id 1000 is that of `ubuntu`"), "{error}");
        let mut accounts = ubuntu();
        accounts.create(&NewUser { replace: true, groups: vec!["sudo".into()], ..wanted }).unwrap();
        assert_eq!(accounts.user("ubuntu"), None);
        assert_eq!(accounts.group, ["root:x:0:", "sudo:x:27:alice", "video:x:44:", "alice:x:1000:"]);
        assert_eq!(accounts.shadow.len(), 2);
        let other = NewUser { name: "ubuntu".into(), uid: Some(1500), ..alice() };
        let error = format!("{:?}", ubuntu().create(&other).unwrap_err());
        assert!(error.contains("has a user `ubuntu` already, with the ids 1000:1000"), "{error}");
        let same = NewUser { uid: Some(1000), ..other };
        assert_eq!(ubuntu().create(&same).unwrap(), Account { uid: 1000, gid: 1000, is_new: false });
    }

    #[test]
    fn a_group_of_somebody_else_is_not_taken() {
        let error = |wanted: NewUser| format!("{:?}", ubuntu().create(&wanted).unwrap_err());
        let named = |name: &str| NewUser { name: name.into(), ..alice() };
        assert!(error(named("video")).contains("there is a group `video` with the id 44"));
        assert!(error(NewUser { uid: Some(27), ..alice() }).contains("there is a group `sudo` with the id 27"));
        let mut accounts = ubuntu();
        let joined = NewUser { group: Some("video".into()), ..named("video") };
        assert_eq!(accounts.create(&joined).unwrap().gid, 44);
        let mut accounts = ubuntu();
        assert_eq!(accounts.create(&NewUser { uid: Some(2000), replace: true, ..named("video") }).unwrap().gid, 2000);
        assert_eq!(accounts.group.iter().filter(|line| line.starts_with("video:")).count(), 1);
    }

    #[test]
    fn a_user_in_further_groups_runs_without_a_group_of_its_own_in_the_configuration() {
        let mut accounts = ubuntu();
        accounts.create(&NewUser { groups: vec!["video".into()], ..alice() }).unwrap();
        assert_eq!(accounts.runs_as("alice"), "1001", "runtimes would leave out the others");
        assert_eq!(accounts.runs_as("alice:video"), "1001:44");
    }

    #[test]
    fn what_files_do_to_the_list_of_users_is_known_above() {
        let mut accounts = ubuntu();
        accounts.note_file("etc/passwd", Noted::Added("zed:x:1001:1001::/:/bin/sh\n"));
        assert_eq!(accounts.create(&alice()).unwrap().uid, 1002);
        accounts.note_file("etc/group", Noted::Copied("copy a to /etc"));
        let error = format!("{:?}", accounts.create(&NewUser { name: "bob".into(), ..alice() }).unwrap_err());
        assert!(error.contains("`copy a to /etc` brings another list of users"), "{error}");
        assert!(accounts.require("nobody-knows", 0..1).is_ok());
    }

    #[test]
    fn groups_are_joined_and_must_be_there() {
        let mut accounts = ubuntu();
        let wanted = NewUser { group: Some("video".into()), groups: vec!["sudo".into(), "video".into()], ..alice() };
        assert_eq!(accounts.create(&wanted).unwrap().gid, 44);
        assert_eq!(accounts.group, ["root:x:0:", "sudo:x:27:ubuntu,alice", "video:x:44:alice", "ubuntu:x:1000:"]);
        let error = format!("{:?}", ubuntu().create(&NewUser { groups: vec!["gpu".into()], ..alice() }).unwrap_err());
        assert!(error.contains("there is no group `gpu`"), "{error}");
    }

    #[test]
    fn the_ids_of_whoever_runs_a_container_are_found() {
        let accounts = ubuntu();
        for (text, ids) in [
            ("ubuntu", Some((1000, 1000))),
            ("1000", Some((1000, 1000))),
            ("7", Some((7, 0))),
            ("ubuntu:sudo", Some((1000, 27))),
            ("7:9", Some((7, 9))),
            ("nobody", None),
            ("7:gpu", None),
        ] {
            assert_eq!(accounts.ids(text), ids, "{text}");
        }
    }
}
