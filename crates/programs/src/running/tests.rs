use std::sync::{Arc, Mutex};

use kiln_plan::event::{Cancel, Event, Reporter};

use super::*;
use crate::environment::{LOCATIONS, Names, PATH};

/// Notes commands and lines; stops the program at a line that says so.
#[derive(Default)]
struct Notes {
    seen: Mutex<Vec<String>>,
    cancel: Cancel,
}

impl Reporter for Notes {
    fn event(&self, event: Event) {
        let text = match event {
            Event::Run { program, arguments, .. } => format!("run {program} {}", arguments.join(" ")),
            Event::Output { line, .. } => line,
            _ => return,
        };
        if text == "stop" {
            self.cancel.cancel();
        }
        self.seen.lock().unwrap().push(text);
    }
}

const NAMES: Names = &[PATH, LOCATIONS];

fn shell(script: &str) -> Call<'static> {
    Call::new("/bin/sh", NAMES).args(["-c", script])
}

fn run_with(call: Call<'_>, environment: &ChildEnvironment) -> (Result<Vec<u8>, ProgramError>, Vec<String>) {
    let notes = Notes::default();
    let cancel = notes.cancel.clone();
    let work = Work::start(&notes, &cancel, "test", "a program", None);
    let result = call.run(environment, &work);
    drop(work);
    (result, notes.seen.into_inner().unwrap())
}

fn environment() -> ChildEnvironment {
    let secrets = ["KILN_CACHE_KEY", "AWS_SECRET_ACCESS_KEY", "UV_INDEX_URL", "PIP_INDEX_URL"];
    let planted = secrets.iter().map(|name| ((*name).into(), "planted".into()));
    ChildEnvironment::new(planted.chain([("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), "/home".into())]))
}

fn run(call: Call<'_>) -> (Result<Vec<u8>, ProgramError>, Vec<String>) {
    run_with(call, &environment())
}

fn failed(script: &str) -> Failed {
    match run(shell(script)).0.unwrap_err() {
        ProgramError::Failed(failed) => *failed,
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_program_gets_the_variables_that_its_caller_names_and_those_that_it_sets() {
    let call = Call::new("env", NAMES).variable("LC_ALL", "C").directory("/");
    let text = String::from_utf8(run(call).0.unwrap()).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["HOME=/home", "LC_ALL=C", "PATH=/usr/bin:/bin"]);
}

#[test]
fn start_and_lines_are_events_without_secrets() {
    let secrets = Secrets::of(["https://user:hidden@index.example/simple"]);
    let call = shell("echo first >&2; echo \"$0\" >&2; printf 'it is hidden' >&2; echo result")
        .arg("https://user:hidden@index.example/simple")
        .secrets(secrets);
    let (result, seen) = run(call);
    assert_eq!(result.unwrap(), b"result\n");
    assert!(seen[0].starts_with("run /bin/sh -c echo first") && !seen.join("\n").contains("hidden@"), "{seen:?}");
    assert_eq!(seen[1..], ["first", "https://****@index.example/simple", "it is ****"]);
    assert_eq!(run(shell("echo 1; echo 2").stdout(Stdout::Lines)).1[1..], ["1", "2"]);
}

#[test]
fn the_end_is_told_in_words_with_the_last_lines_and_the_output() {
    let error = failed("echo answer; for i in 1 2 3; do echo line $i >&2; done; exit 7");
    assert_eq!((error.ended, error.stdout.as_slice()), (Ended::Status(7), b"answer\n".as_slice()));
    assert_eq!(error.to_string(), "`sh` failed (exit status 7)\n  line 1\n  line 2\n  line 3");
    let error = failed("echo https://user:secret@a.example >&2; kill -9 $$");
    assert_eq!(error.to_string(), "`sh` failed (signal 9 (SIGKILL))\n  https://****@a.example");
}

#[test]
fn a_program_that_was_asked_to_stop_is_interrupted() {
    for signal in ["INT", "TERM"] {
        assert!(matches!(run(shell(&format!("kill -{signal} $$"))).0, Err(ProgramError::Interrupted)), "{signal}");
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = run(Call::new("no-such-program", NAMES)).0.unwrap_err();
    assert_eq!(error.to_string(), "`no-such-program` is not on PATH");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("no-program");
    fs_err::write(&file, "\0").unwrap();
    fs_err::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let error = run(Call::new(&file, NAMES)).0.unwrap_err();
    assert_eq!(error.to_string(), format!("`{}` cannot be run", file.display()));
}

/// Waits until no process has this number.
fn is_gone(process: &str) -> bool {
    let exists = || {
        // A child of a dead process may be left to a reaper that takes its time.
        let status = fs_err::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    };
    let since = Instant::now();
    while exists() {
        if since.elapsed() > Duration::from_secs(20) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
fn stopping_ends_a_program_that_ignores_the_request_and_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let script = "trap '' TERM INT; sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 1; done' & \
                  while ! test -s child; do sleep 0.01; done; echo $$ > own; echo stop >&2; while :; do sleep 1; done";
    let call = shell(script).directory(directory.path()).patience(Duration::from_millis(50));
    assert!(matches!(run(call).0, Err(ProgramError::Interrupted)));
    for file in ["own", "child"] {
        let process = fs_err::read_to_string(directory.path().join(file)).unwrap();
        assert!(is_gone(process.trim()), "{file} is still there");
    }
}

#[test]
fn a_program_that_ends_on_request_may_clean_up() {
    let directory = tempfile::tempdir().unwrap();
    let script = "trap 'echo done > cleaned; exit 0' TERM; echo stop >&2; while :; do sleep 0.01; done";
    let call = shell(script).directory(directory.path()).patience(Duration::from_secs(60));
    assert!(matches!(run(call).0, Err(ProgramError::Interrupted)));
    assert!(directory.path().join("cleaned").exists());
}

#[test]
fn nothing_is_started_after_the_user_wants_to_stop() {
    let cancel = Cancel::default();
    cancel.cancel();
    let notes = Notes::default();
    let work = Work::start(&notes, &cancel, "test", "a program", None);
    assert!(matches!(shell("true").run(&environment(), &work), Err(ProgramError::Interrupted)));
    assert!(notes.seen.lock().unwrap().is_empty());
}

#[test]
fn endless_output_is_bounded() {
    let error = run(shell("yes").stdout(Stdout::Captured(100_000))).0.unwrap_err();
    assert_eq!(error.to_string(), "`sh` wrote more than 100000 bytes and was ended");
    let error = failed("yes | head -n 100000 >&2; exit 1");
    assert_eq!((error.lines.len(), error.to_string().lines().count()), (2000, 13));
    let error = failed("head -c 3000000 /dev/zero >&2; exit 1");
    assert_eq!(error.lines.iter().map(String::len).collect::<Vec<_>>(), [64 << 10]);
}

#[test]
fn input_is_written_while_output_is_read() {
    let bytes = vec![b'x'; 3 << 20];
    let call = Call::new("cat", NAMES).input(bytes.clone()).stdout(Stdout::Captured(4 << 20));
    assert!(run(call).0.unwrap() == bytes);
    assert_eq!(run(shell("echo enough").input(bytes)).0.unwrap(), b"enough\n");
}

#[test]
fn input_that_fails_ends_the_program() {
    let call = Call::new("cat", NAMES).input_from(|out| {
        out.write_all(b"a part")?;
        Err(io::Error::other("the rest is damaged"))
    });
    let error = run(call).0.unwrap_err();
    assert_eq!(error.to_string(), "the input of `cat` cannot be written");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the rest is damaged");
}

#[test]
fn a_process_that_holds_the_outputs_and_the_input_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let script =
        "setsid sh -c 'echo $$ > left; exec sleep 1000' <&0 & while ! test -s left; do sleep 0.01; done; echo x";
    let call = shell(script).directory(directory.path()).input(vec![0; 3 << 20]);
    assert_eq!(run(call).0.unwrap(), b"x\n");
    let left = fs_err::read_to_string(directory.path().join("left")).unwrap();
    let left = Pid::from_raw(left.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(left, Signal::KILL).unwrap();
}

#[test]
fn a_file_gets_the_output() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let call = shell("echo written; echo line >&2").stdout(Stdout::File(fs_err::File::create(&path).unwrap()));
    let (result, seen) = run(call);
    assert_eq!((result.unwrap().len(), &seen[1..]), (0, ["line".to_owned()].as_slice()));
    assert_eq!(fs_err::read_to_string(&path).unwrap(), "written\n");
}

#[test]
fn several_programs_run_at_once() {
    let shared = Arc::new(environment());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let shared = shared.clone();
            scope.spawn(move || {
                let (result, _) = run_with(shell("cat").input(vec![number; 100_000]), &shared);
                assert_eq!(result.unwrap(), vec![number; 100_000]);
            });
        }
    });
}
