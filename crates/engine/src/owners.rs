//! The owners of copied files: ids, or names that the base or the stack knows.

use kiln_plan::base::BaseFacts;
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::stack::{Copy, User};

use crate::error::{BuildError, Result};

/// Returns the user and the group that copied files belong to, by id.
pub(crate) fn of(copy: &Copy, facts: &BaseFacts, created: &[&User]) -> Result<(u32, u32)> {
    let unknown = |what: &str, name: &str, known: Vec<String>| -> BuildError {
        let span = copy.owner_span.clone().unwrap_or_else(|| copy.from_span.clone());
        let message = format!("there is no {what} `{name}` in the base");
        let hint = if known.is_empty() { "use a number".to_owned() } else { format!("known are {}", known.join(", ")) };
        Diagnostics::from(Diagnostic::at(span, message).hint(hint)).into()
    };
    let first = |lines: &[String]| lines.iter().filter_map(|line| line.split(':').next().map(str::to_owned)).collect();
    let made = |wanted: &str| {
        created.iter().find_map(|user| match user {
            User::Create { name, uid, gid, .. } if name == wanted => Some((*uid, *gid)),
            _ => None,
        })
    };
    let (uid, primary) = match copy.owner.user.as_deref() {
        None | Some("") => (0, 0),
        Some(user) => match user.parse::<u32>() {
            Ok(uid) => (uid, 0),
            Err(_) => {
                made(user).or_else(|| facts.user(user)).ok_or_else(|| unknown("user", user, first(&facts.passwd)))?
            }
        },
    };
    let gid = match copy.owner.group.as_deref() {
        None => primary,
        Some(group) => match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => made(group)
                .map(|(_, gid)| gid)
                .or_else(|| facts.group_id(group))
                .ok_or_else(|| unknown("group", group, first(&facts.group)))?,
        },
    };
    Ok((uid, gid))
}
