//! Commands with a network, secrets and caches, and a package whose scripts attack: real programs in a real Debian.

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use flate2::read::MultiGzDecoder;

use super::report::{Checks, none, same};
use super::{Result, Suite, programs, stack};

/// The secret of all commands.
const TOKEN: &str = "tok_9fK2mQ7xVb4LpZ8sWd1R";
/// Ways in which a command leaves or shows its secret by accident. The first word says if the layer must be refused.
const ACCIDENTS: [(&str, &str); 22] = [
    ("shown", "echo token is $(cat $S)"),
    ("shown", "set -x; curl -H \"Authorization: Bearer $(cat $S)\" http://127.0.0.1:1/ || true"),
    ("shown", "cat $S $S; base64 $S; false || true"),
    ("shown", "curl -sS http://user:$(cat $S)@127.0.0.1:1/x || true"),
    ("shown", "cat $S >&2; exit 3"),
    ("shown", "python3 -c \"raise ValueError(open('$S').read())\""),
    ("shown", "cat $S | head -c 12; echo; tail -c 12 $S; exit 0"),
    ("shown", "cp $S /tmp/x; rm /tmp/x"),
    ("shown", "cp $S /dev/shm/x; cp $S /run/x"),
    ("left", "cp $S /root/token"),
    ("left", "printf '[global]\\nindex-url = https://u:%s@index.example/simple\\n' $(cat $S) > /etc/pip.conf"),
    ("left", "printf 'machine a.example login x password %s\\n' $(cat $S) > /root/.netrc"),
    ("left", "env TOKEN=$(cat $S) env > /root/env"),
    ("left", "git init -q /g; git -C /g remote add origin https://x:$(cat $S)@git.example/r.git"),
    ("left", "tar cf /root/secrets.tar /run/secrets"),
    ("left", "base64 $S > /root/b64"),
    ("left", "(head -c 41 /dev/zero; cat $S; head -c 90 /dev/zero) | base64 > /root/wrapped"),
    ("left", "python3 -c \"import pickle; pickle.dump({'token': open('$S').read()}, open('/root/p', 'wb'))\""),
    (
        "left",
        "python3 -c \"import sqlite3; d = sqlite3.connect('/root/db'); d.execute('create table t(x)'); d.execute('insert into t values (?)', [open('$S').read()]); d.commit()\"",
    ),
    ("left", "touch /root/name-$(cat $S)"),
    ("left", "ln -s https://$(cat $S)@a.example /root/link"),
    (
        "left",
        "python3 -c \"import base64; open('/root/u', 'w').write(base64.urlsafe_b64encode(b'???>>>' + open('$S','rb').read()).decode())\"",
    ),
];
/// Seconds after which a leftover process of the attacking package ends by itself.
const LEFTOVER: &str = "98765";

/// Makes the checks over the images that the project of a suite has, which are in the store.
pub(super) fn check(suite: &Suite, checks: &mut Checks, below: &str, lock: &Path) {
    let place = suite.work.join("networked");
    let project = |name: &str, lines: &str| -> Result<PathBuf> {
        let project = place.join(name);
        stack::write(&project, &format!("{below}\n{lines}"))?;
        fs_err::copy(lock, project.join("kiln.lock"))?;
        Ok(project)
    };
    checks.check("curl, wget, git, pip, apt and Python reach other machines through the proxy", || {
        reach(suite, &project("reach", REACH)?)
    });
    checks.check("a service of this machine is reached where the stack names it, and by no other name", || {
        local(suite, |lines| project("local", lines))
    });
    checks.check("with a network by any protocol, this machine and its link are refused", || {
        full(suite, |lines| project("full", lines))
    });
    checks.check("22 accidents leave no secret, plain or in base64", || {
        accidents(suite, |lines| project("secrets", lines))
    });
    checks.check("the scripts of a package get nothing of this machine", || {
        hostile(suite, |lines| project("hostile", lines))
    });
    suite.remove("networked");
}

const REACH: &str = r#"[images.reach]
from = "more"
run = [{ command = '''
M=$(sed -n 's/^deb \(\[[^]]*\] \)*\(http[^ ]*\) .*/\2/p' /etc/apt/sources.list | head -1)
curl -fsS -o /dev/null "$M/dists/bookworm/Release"
wget -q -O /dev/null "$M/dists/bookworm/Release"
python3 -c "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()" "$M/dists/bookworm/Release"
apt-get -q update
apt-get -q -y install --no-install-recommends tree
pip download -q --no-deps -d /wheels six
if git ls-remote "$M/none.git" 2>&1 | grep 'Could not resolve'; then exit 1; fi
ls /wheels
''', shell = "bash", network = true, apt = true, cache = ["/root/.cache/pip"] }]
"#;

fn reach(suite: &Suite, project: &Path) -> Result<()> {
    suite.build(project, &["reach"])?;
    let explained = programs::text(suite.kiln(project).args(["explain", "reach"]))?;
    let missing: Vec<String> = ["/dists/bookworm/Release: 200, ", "sha256:", ":443: ", "ran 2"]
        .iter()
        .filter(|part| !explained.contains(**part))
        .map(|part| (*part).to_owned())
        .collect();
    none("explain lacks", &missing)
}

fn local(suite: &Suite, project: impl Fn(&str) -> Result<PathBuf>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 512];
            let _ = stream.read(&mut head);
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    });
    let run = |network: &str| {
        let hosts =
            ["localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1"];
        let curl = "curl -s -g --max-time 5 -w '\\n'";
        let asked = hosts
            .map(|host| format!("{curl} http://{host}:{port}/ || true; {curl} -p http://{host}:{port}/ || true; "));
        format!(
            "[images.local]\nfrom = \"more\"\nrun = [{{ command = \"\"\"( {} ) > /got\"\"\", network = {network} }}, \"grep -c hello /got > /count || true; cat /count\"]\n",
            asked.concat()
        )
    };
    let count = |network: &str| -> Result<String> {
        let project = project(&run(network))?;
        let said = output(suite.kiln(&project).args(["build", "-v", "local"]))?;
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix("  ")?.trim().parse::<u32>().ok())
            .map(|count| count.to_string())
            .collect())
    };
    same("answers without a name", count("true")?, "0".to_owned())?;
    // As a request to the proxy, and through a tunnel.
    same("answers with a name", count(&format!("{{ allow = [\"localhost:{port}\"] }}"))?, "2".to_owned())
}

fn full(suite: &Suite, project: impl Fn(&str) -> Result<PathBuf>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let command = format!(
        "M=$(sed -n 's/^deb \\(\\[[^]]*\\] \\)*\\(http[^ ]*\\) .*/\\2/p' /etc/apt/sources.list | head -1); curl -fsS -o /dev/null \"$M/dists/bookworm/Release\"; \
         for h in 127.0.0.1 10.0.2.2 10.0.2.3 169.254.169.254 localhost; do \
         if timeout 3 bash -c \"exec 3<>/dev/tcp/$h/{port}\" 2>/dev/null; then echo reached $h; exit 1; fi; done; \
         if timeout 3 bash -c \"exec 3<>/dev/tcp/169.254.169.254/80\" 2>/dev/null; then exit 1; fi"
    );
    let project = project(&format!(
        "[images.full]\nfrom = \"more\"\nrun = [{{ command = '''{command}''', network = \"full\" }}]\n"
    ))?;
    suite.build(&project, &["full"])?;
    same("processes of slirp4netns", processes("slirp4netns"), 0)
}

fn accidents(suite: &Suite, project: impl Fn(&str) -> Result<PathBuf>) -> Result<()> {
    let mut lines = "[secrets]\ntoken = { env = \"TOKEN\" }\n".to_owned();
    for (at, (_, command)) in ACCIDENTS.iter().enumerate() {
        let command = command.replace("$S", "/run/secrets/token");
        lines += &format!(
            "[images.a{at}]\nfrom = \"more\"\nrun = [{{ command = '''{command}''', secrets = [\"token\"], shell = \"bash\" }}]\n"
        );
    }
    lines += "[images.waits]\nfrom = \"more\"\nrun = [{ command = 'cat /run/secrets/token > /dev/null; sleep 2', secrets = [\"token\"] }]\n";
    let project = project(&lines)?;
    let mut wrong = Vec::new();
    let mut said = Vec::new();
    for (at, (outcome, command)) in ACCIDENTS.iter().enumerate() {
        let image = format!("a{at}");
        let out = output(
            suite.kiln(&project).args(["build", "-v", "--output", &format!("oci:out{at}"), &image]).env("TOKEN", TOKEN),
        )?;
        let text = [out.stdout, out.stderr].concat();
        let is_refused = String::from_utf8_lossy(&text).contains("left a secret in");
        if is_refused != (*outcome == "left") {
            wrong.push(format!("{command}: {}", String::from_utf8_lossy(&text)));
        }
        said.extend(text);
    }
    let mut waiting = suite.kiln(&project);
    let mut waiting =
        waiting.args(["build", "waits"]).env("TOKEN", TOKEN).stderr(Stdio::null()).stdout(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_millis(1500));
    // kiln itself has the variable that its user gave it.
    let seen =
        command_lines().into_iter().filter(|(_, line)| holds_secret(line)).map(|(process, _)| process.to_string());
    wrong.extend(seen.map(|process| format!("the arguments of process {process} hold it")));
    waiting.wait()?;
    if holds_secret(&said) {
        wrong.push("what kiln printed holds it".to_owned());
    }
    search(&suite.store, &mut wrong)?;
    search(&project, &mut wrong)?;
    none("accidents went wrong", &wrong)
}

/// Returns true for the token itself, and for what base64 makes of it at each place of a text.
fn holds_secret(bytes: &[u8]) -> bool {
    let joined: Vec<u8> = bytes.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
    let mut forms = vec![TOKEN.as_bytes().to_vec()];
    for shift in 0..3 {
        let encoded = base64(&[&vec![0; shift][..], TOKEN.as_bytes()].concat());
        forms.push(encoded[(shift * 8_usize).div_ceil(6)..(shift + TOKEN.len()) * 8 / 6].to_vec());
    }
    forms.iter().any(|form| joined.windows(form.len()).any(|part| part == form.as_slice()))
}

/// The digits of base64 (RFC 4648), without padding.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let digit = |at: usize| (0..6).fold(0, |value, next| value << 1 | usize::from(bit(at * 6 + next)));
    (0..(bytes.len() * 8).div_ceil(6)).map(|at| DIGITS[digit(at)]).collect()
}

/// Looks for the secret in all small files of a directory, inflated where they are of gzip.
fn search(directory: &Path, wrong: &mut Vec<String>) -> Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let path = entry?.path();
        let found = path.symlink_metadata()?;
        // Layers of the base, and what is unpacked of them, are older than the secret.
        if found.is_dir() && !path.ends_with("trees") {
            search(&path, wrong)?;
        } else if found.is_file() && found.len() < 8 << 20 {
            let mut bytes = fs_err::read(&path)?;
            if bytes.starts_with(&[0x1f, 0x8b]) {
                let mut inflated = Vec::new();
                // A file that is cut off is searched as far as it goes.
                let _ = MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut inflated);
                bytes = inflated;
            }
            if holds_secret(&bytes) {
                wrong.push(format!("{} holds it", path.display()));
            }
        }
    }
    Ok(())
}

/// Builds a package whose script after installation tries to leave the sandbox, and writes down what it got.
fn hostile(suite: &Suite, project: impl Fn(&str) -> Result<PathBuf>) -> Result<()> {
    let project = project(
        "[images.hostile]\nfrom = \"more\"\nsystem = { debs = [\"hostile.deb\"] }\nrun = [\"cat /hostile > /seen 2>/dev/null || true; cat /seen\"]\n",
    )?;
    let (server, marker) = (TcpListener::bind("127.0.0.1:0")?, project.join("marker"));
    fs_err::write(&marker, "of the host")?;
    let tree = project.join("package");
    fs_err::create_dir_all(tree.join("DEBIAN"))?;
    let control =
        "Package: hostile\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: attacks\n";
    fs_err::write(tree.join("DEBIAN/control"), control)?;
    let (marker, port, process) = (marker.display().to_string(), server.local_addr()?.port(), std::process::id());
    let attacks = [
        ("reads a file of the host", format!("cat {marker}")),
        ("reads it through the first process", format!("cat /proc/1/root{marker}")),
        ("reads it through its parents", format!("cat {}{marker}", "/..".repeat(30))),
        ("enters the host by chroot", "chroot /proc/1/root true".to_owned()),
        ("enters namespaces of the host", "nsenter -t 1 -m true".to_owned()),
        ("reaches a server of the host", format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'")),
        ("reaches the link", "timeout 2 bash -c 'exec 3<>/dev/tcp/169.254.169.254/80'".to_owned()),
        ("reaches another machine", "timeout 2 bash -c 'exec 3<>/dev/tcp/9.9.9.9/53'".to_owned()),
        ("sees a secret", "ls /run/secrets/*".to_owned()),
        ("kills a process of the host", format!("kill -0 {process}")),
        ("mounts", "mount -t tmpfs none /mnt".to_owned()),
        ("makes namespaces", "unshare -Urm true".to_owned()),
        ("changes the kernel", "sh -c 'echo x > /proc/sys/kernel/core_pattern'".to_owned()),
        ("presses a magic key", "sh -c 'echo h > /proc/sysrq-trigger'".to_owned()),
        ("reads a disk", "sh -c 'mknod /tmp/d b 254 0 && head -c 1 /tmp/d'".to_owned()),
        ("sets the clock", "date -s 2001-01-01".to_owned()),
        ("names the machine", "hostname hostile".to_owned()),
        ("makes devices writable for all", "chmod 666 /dev/urandom".to_owned()),
    ];
    let mut script = "#!/bin/sh\n".to_owned();
    for (name, attack) in &attacks {
        script += &format!("if {attack} >/dev/null 2>&1; then echo '{name}' >> /hostile; fi\n");
    }
    script += &format!("setsid sleep {LEFTOVER} >/dev/null 2>&1 &\nexit 0\n");
    fs_err::write(tree.join("DEBIAN/postinst"), script)?;
    fs_err::set_permissions(tree.join("DEBIAN/postinst"), PermissionsExt::from_mode(0o755))?;
    programs::output(
        Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&tree).arg(project.join("hostile.deb")),
    )?;
    let out = output(suite.kiln(&project).args(["build", "-v", "hostile"]))?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    if !out.status.success() {
        return Err(text.into());
    }
    let got: Vec<String> = attacks
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .filter(|name| text.lines().any(|line| line.trim() == name))
        .collect();
    none("attacks got through", &got)?;
    same("the file of the host", fs_err::read_to_string(marker)?, "of the host".to_owned())?;
    same("processes that were left", processes(LEFTOVER), 0)
}

fn output(command: &mut Command) -> Result<Output> {
    Ok(command.stdin(Stdio::null()).output()?)
}

fn command_lines() -> Vec<(u32, Vec<u8>)> {
    let entries = fs_err::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes.filter_map(|process| Some((process, fs_err::read(format!("/proc/{process}/cmdline")).ok()?))).collect()
}

fn processes(word: &str) -> usize {
    let holds = |line: &[u8]| line.windows(word.len()).any(|part| part == word.as_bytes());
    command_lines().iter().filter(|(_, line)| holds(line)).count()
}
