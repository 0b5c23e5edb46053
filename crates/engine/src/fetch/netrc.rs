//! `~/.netrc`: credentials by host, as curl, pip and uv read them.

/// The entries of a netrc file.
#[derive(Debug, Clone, Default)]
pub struct Netrc {
    machines: Vec<(String, String, String)>,
    default: Option<(String, String)>,
}

impl Netrc {
    /// Reads the entries; what cannot be understood is passed over.
    pub fn parse(text: &str) -> Self {
        let mut netrc = Self::default();
        let mut words = text.lines().flat_map(|line| line.split_whitespace().take_while(|word| !word.starts_with('#')));
        let (mut machine, mut login, mut password) = (None, String::new(), String::new());
        while let Some(word) = words.next() {
            match word {
                "machine" | "default" => {
                    netrc.add(machine.take(), &mut login, &mut password);
                    machine = Some(if word == "machine" { words.next().map(str::to_owned) } else { None });
                }
                "login" => login = words.next().unwrap_or_default().to_owned(),
                "password" => password = words.next().unwrap_or_default().to_owned(),
                _ => {}
            }
        }
        netrc.add(machine, &mut login, &mut password);
        netrc
    }

    fn add(&mut self, machine: Option<Option<String>>, login: &mut String, password: &mut String) {
        let (login, password) = (std::mem::take(login), std::mem::take(password));
        match machine {
            Some(Some(host)) => self.machines.push((host, login, password)),
            Some(None) => self.default = Some((login, password)),
            None => {}
        }
    }

    /// Login and password for a host.
    pub fn find(&self, host: &str) -> Option<(String, String)> {
        let machine = self.machines.iter().find(|(machine, ..)| machine == host);
        machine.map(|(_, login, password)| (login.clone(), password.clone())).or_else(|| self.default.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_find_their_credentials_and_others_the_default() {
        let netrc = Netrc::parse("# note\nmachine a.example login me password secret\ndefault login x password y\n");
        assert_eq!(netrc.find("a.example"), Some(("me".into(), "secret".into())));
        assert_eq!(netrc.find("b.example"), Some(("x".into(), "y".into())));
        assert_eq!(Netrc::parse("machine a login b").find("c"), None);
    }
}
