//! `kiln login` and `kiln logout`

use std::io::{BufRead, IsTerminal, Read, Write};
use std::sync::Arc;

use clap::Args;
use kiln_plan::event::Cancel;
use kiln_plan::reference::is_registry;
use kiln_registry::Registries;
use serde_json::json;

use super::{Outcome, print, print_json};
use crate::arguments::Global;
use crate::progress::Terminal;
use crate::render::Failure;
use crate::surroundings::registry;

/// Keep credentials for a registry, where Docker keeps them too, after asking the registry whether they are right
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// Such as `ghcr.io`
    #[arg(value_parser = registry_name)]
    registry: String,
    /// User name
    #[arg(short, long)]
    user: Option<String>,
    /// Read the password, or the access token, from standard input
    #[arg(long)]
    password_stdin: bool,
}

/// Forget credentials for a registry
#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// Such as `ghcr.io`
    #[arg(value_parser = registry_name)]
    registry: String,
}

fn registry_name(text: &str) -> Result<String, String> {
    match text {
        "index.docker.io" | "registry-1.docker.io" => Ok("docker.io".into()),
        text if is_registry(text) => Ok(text.to_owned()),
        _ => Err("write a host name with an optional port, such as `ghcr.io`".into()),
    }
}

impl Login {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let (user, password) = self.ask()?;
        let options = registry(global, &Terminal::shared(global), cancel);
        let mut checked = false;
        if !options.offline {
            let registries = Registries::new(options.clone(), cancel, Arc::new(Terminal::new(global)))?;
            let asked = registries.check_credential(&self.registry, &user, &password);
            checked = asked.map_err(|error| match error.is_denied() {
                true => Failure::from(error).hint("many registries want an access token in the place of the password"),
                false => error.into(),
            })?;
        }
        let kept = options.credentials.store(&self.registry, &user, &password)?;
        if global.json {
            return print_json(&json!({ "registry": self.registry, "user": user, "kept": kept, "checked": checked }));
        }
        let unchecked = if checked { "" } else { "; nobody asked for it, so that it may be wrong" };
        print(&format!("logged in to {} as {user}; kept in {kept}{unchecked}\n", self.registry))
    }

    fn ask(&self) -> Result<(String, String), Failure> {
        let terminal = std::io::stdin().is_terminal();
        let user = match &self.user {
            Some(user) => user.clone(),
            None if self.password_stdin || !terminal => {
                return Err(
                    Failure::usage("there is no terminal to ask for the user name on").hint("say it: `--user NAME`")
                );
            }
            None => ask_user()?,
        };
        let password = if self.password_stdin {
            let mut text = String::new();
            std::io::stdin().take(1 << 20).read_to_string(&mut text)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        } else if terminal {
            rpassword::prompt_password("password or access token: ")?
        } else {
            let failure = Failure::usage("there is no terminal to ask for the password on");
            return Err(failure.hint("give it on standard input with `--password-stdin`"));
        };
        if password.is_empty() {
            return Err(Failure::usage("the password is empty"));
        }
        Ok((user, password))
    }
}

fn ask_user() -> Result<String, Failure> {
    let mut terminal = std::io::stderr();
    terminal.write_all(b"user name: ").and_then(|()| terminal.flush())?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    match line.trim() {
        "" => Err(Failure::usage("the user name is empty")),
        user => Ok(user.to_owned()),
    }
}

impl Logout {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let options = registry(global, &Terminal::shared(global), cancel);
        let known = options.credentials.erase(&self.registry)?;
        if global.json {
            return print_json(&json!({ "registry": self.registry, "known": known }));
        }
        print(&match known {
            true => format!("logged out of {}\n", self.registry),
            false => format!("there were no credentials for {}\n", self.registry),
        })
    }
}
